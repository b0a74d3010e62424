"""The ledger's auditor: proves every invariant over a whole file, from its first row, and reports each violation.

It opens the file by itself, changes nothing, and sees one consistent snapshot of it; servers may go on working. Amounts
are added up in Python, because a sum in SQLite may overflow 64 bits.

It proves, in this order (if the file itself is damaged, it stops after the first: the rest would only repeat that):

1. SQLite can read every page, the tables are those that the migrations make, and no last write was lost.
2. Every budget adds up, and its reserved amount is exactly the estimates of the ACTIVE reservations over it.
3. All charges over a budget since its beginning add up to what it has spent and owes, ended periods included; charges
   that were not covered add up to its uncovered amount and what a person cleared of it.
4. A reservation belongs to the owner it was made for, and was settled once; the first answers agree with the rows of
   reservations and events.
5. The clock of the ledger is not ahead of the machine's.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from budget_server.authority.requests import MAX_AMOUNT
from budget_server.authority.reservation import DELEGATION_OWNER
from budget_server.authority.schema import LEDGER_KIND
from budget_server.database.audit import CHECK_FAILED, MAX_FINDINGS, damage, one_moment

CLOCK_LEEWAY_MS = 5_000
"""Most that the ledger may be ahead of the machine's clock, which people and programs set."""

Place = tuple[str, str]
"""A scope and a unit: the key of a budget."""


class Audit(NamedTuple):
    """The findings of an audit."""

    findings: list[str]
    budgets: int
    reservations: int
    events: int


def audit(path: Path, now_ms: int | None) -> Audit:
    """Check a whole ledger file.

    Args:
        path: the file; nothing in it is changed.
        now_ms: the machine's time, in epoch milliseconds; ``None`` leaves the clock out.

    Returns:
        One sentence for every finding; empty for a sound ledger.

    Raises:
        apsw.Error: the file cannot be opened or read at all.
    """
    try:
        with one_moment(path) as db:
            return _audit(db, now_ms)
    except UnicodeDecodeError:
        return Audit(["Some of its words are not even text: a disk has garbled them."], 0, 0, 0)


def _audit(db: apsw.Connection, now_ms: int | None) -> Audit:
    broken = list(islice(damage(db, LEDGER_KIND), MAX_FINDINGS))
    if not all(finding.startswith(CHECK_FAILED) for finding in broken):
        return Audit(broken, 0, 0, 0)
    if findings := list(islice(_unreadable(db), MAX_FINDINGS)):
        return Audit(findings, 0, 0, 0)
    found = chain(broken, _budgets(db), _consumption(db), _uncovered(db), _owners(db), _settlements(db), _answers(db))
    if now_ms is not None:
        found = chain(found, _clock(db, now_ms))
    return Audit(
        list(islice(found, MAX_FINDINGS)),
        _count(db, "budgets"),
        _count(db, "reservations"),
        _count(db, "events"),
    )


def _count(db: apsw.Connection, table: str) -> int:
    return int(str(db.execute(f"SELECT count(*) FROM {table}").get))  # noqa: S608 - named by our own code


_JSON_COLUMNS = {
    "budgets": ("caps",),
    "reservations": (
        *("affected_scopes", "budgeted_scopes", "subject", "action", "quotas"),
        *("metadata", "metrics", "committed_metadata"),
    ),
    "events": ("budgeted_scopes", "subject", "action", "metrics", "metadata"),
    "idempotency": ("body",),
}
"""The columns that are JSON."""


def _unreadable(db: apsw.Connection) -> Iterator[str]:
    """Check text columns for bytes that a disk garbled: SQLite keeps no checksum of them."""
    if _count(db, "clock") != 1:
        yield "It has lost its clock."
    for table, columns in _JSON_COLUMNS.items():
        for column in columns:
            condition = f"{column} IS NOT NULL AND NOT json_valid(CAST({column} AS TEXT))"
            count = int(str(db.execute(f"SELECT count(*) FROM {table} WHERE {condition}").get))  # noqa: S608 - constants
            if count:
                yield f"{count} rows of {table} have a {column} that cannot be read."


def _budgets(db: apsw.Connection) -> Iterator[str]:
    held: defaultdict[Place, int] = defaultdict(int)
    for unit, estimate, scopes in db.execute(
        "SELECT unit, estimate, budgeted_scopes FROM reservations WHERE state = 'ACTIVE'"
    ):
        for scope in json.loads(scopes):
            held[scope, unit] += estimate
    for scope, unit, tenant, allocated, remaining, reserved, spent, debt in db.execute(
        "SELECT scope, unit, tenant, allocated, remaining, reserved, spent, debt FROM budgets"
    ):
        if remaining != allocated - spent - reserved - debt:
            yield (
                f"{scope} in {unit} does not add up: {remaining} remain of {allocated}, "
                f"with {spent} spent, {reserved} reserved and {debt} owed."
            )
        if str(scope).split("/")[0].lower() != f"tenant:{tenant}".lower():
            yield f"{scope} in {unit} belongs to the tenant {tenant}."
        should = held.pop((scope, unit), 0)
        if reserved != should:
            yield f"{scope} in {unit} has {reserved} reserved, and its active reservations hold {should}."
    for (scope, unit), amount in held.items():
        yield f"Reservations hold {amount} {unit} of {scope}, which has no such budget."


def _consumption(db: apsw.Connection) -> Iterator[str]:
    charged: defaultdict[Place, int] = defaultdict(int)
    for unit, amount, scopes in db.execute(
        "SELECT unit, charged, budgeted_scopes FROM reservations WHERE state = 'COMMITTED'"
        " UNION ALL SELECT unit, charged, budgeted_scopes FROM events"
    ):
        for scope in json.loads(scopes):
            charged[scope, unit] += amount
    used: defaultdict[Place, int] = defaultdict(int)
    for scope, unit, amount in db.execute(
        "SELECT scope, unit, spent FROM budgets UNION ALL SELECT scope, unit, debt FROM budgets"
        " UNION ALL SELECT scope, unit, spent FROM ended_periods"
    ):
        used[scope, unit] += amount
    for scope, unit in sorted(charged.keys() | used.keys()):
        if charged[scope, unit] != used[scope, unit]:
            yield (
                f"{scope} in {unit} has {used[scope, unit]} spent and owed since its beginning, "
                f"and {charged[scope, unit]} was charged."
            )


def _uncovered(db: apsw.Connection) -> Iterator[str]:
    missing: defaultdict[Place, int] = defaultdict(int)
    for unit, amount, scopes in db.execute(
        "SELECT unit, uncovered, budgeted_scopes FROM reservations WHERE uncovered > 0"
        " UNION ALL SELECT unit, amount - charged, budgeted_scopes FROM events WHERE amount > charged"
    ):
        for scope in json.loads(scopes):
            missing[scope, unit] += amount
    for scope, unit, noted in db.execute("SELECT scope, unit, uncovered + uncovered_cleared FROM budgets"):
        should = min(missing[scope, unit], MAX_AMOUNT)
        if noted != should:
            yield f"{scope} in {unit} has {noted} noted as not covered, and {should} was not covered."


def _owners(db: apsw.Connection) -> Iterator[str]:
    """Compare the owners of reservations with the owners that their actions name."""
    for reservation_id, owner, action in db.execute(
        "SELECT reservation_id, owner, action FROM reservations WHERE owner <> ''"
    ):
        delegation_id = str(owner).removeprefix(DELEGATION_OWNER)
        if f"delegation-{delegation_id}" not in (json.loads(str(action)).get("tags") or ()):
            yield f"Reservation {reservation_id} belongs to {owner}, and was made for another."


def _settlements(db: apsw.Connection) -> Iterator[str]:
    for reservation_id, count in db.execute(
        "SELECT resource, count(*) FROM idempotency WHERE endpoint IN ('commit', 'release')"
        " GROUP BY tenant, resource HAVING count(*) > 1"
    ):
        yield f"Reservation {reservation_id} was settled {count} times."
    for endpoint, reservation_id, body, state, settled_by, charged, estimate in db.execute(
        "SELECT endpoint, resource, body, state, settled_by, charged, estimate FROM idempotency"
        " LEFT JOIN reservations ON reservation_id = resource WHERE endpoint IN ('commit', 'release')"
    ):
        if state is None:
            yield f"Reservation {reservation_id} is gone, though it was settled."
            continue
        is_commit = endpoint == "commit"
        status, said = _said(body, ("status",)), _said(body, ("charged" if is_commit else "released", "amount"))
        holds = charged if is_commit else estimate
        if (status, "client", said) != (state, settled_by, holds):
            yield (
                f"Reservation {reservation_id} is {state} with {holds}, "
                f"and its {endpoint} was answered {status} with {said}."
            )
    for (reservation_id,) in db.execute(
        "SELECT reservation_id FROM reservations WHERE settled_by = 'client' AND NOT EXISTS (SELECT 1 FROM idempotency"
        " WHERE tenant = reservations.tenant AND endpoint IN ('commit', 'release') AND resource = reservation_id)"
    ):
        yield f"Reservation {reservation_id} is settled, and nobody was answered so."


_MISPLACED = """
    SELECT endpoint, idempotency.idempotency_key FROM idempotency LEFT JOIN reservations ON reservation_id = resource
    WHERE status <> iif(endpoint = 'event', 201, 200) OR CASE
        WHEN endpoint IN ('commit', 'release', 'extend') THEN idempotency.tenant IS NOT reservations.tenant
        WHEN endpoint = 'event' THEN resource <> '' OR NOT EXISTS (
            SELECT 1 FROM events WHERE events.tenant = idempotency.tenant
            AND event_id = json_extract(body, '$.event_id'))
        ELSE resource <> '' END
"""


def _answers(db: apsw.Connection) -> Iterator[str]:
    """Compare the stored answers of reserves and events with their rows: a repeated call gets the same answer."""
    answered: set[str] = set()
    expiry: dict[str, int] = {}
    for body, resource in db.execute("SELECT body, resource FROM idempotency WHERE endpoint = 'extend'"):
        expiry[str(resource)] = max(expiry.get(str(resource), 0), int(_said(body, ("expires_at_ms",)) or 0))
    for endpoint, key in db.execute(_MISPLACED):
        yield f"The answer to {endpoint} under the key {key} is another tenant's, or stands in another's place."
    for body, key, tenant in db.execute(
        "SELECT body, idempotency_key, tenant FROM idempotency WHERE endpoint = 'reserve'"
    ).fetchall():
        reservation_id = str(_said(body, ("reservation_id",)))
        if _said(body, ("reservation_id",)) is None:
            if _said(body, ("decision",)) is None:
                yield f"The answer to the reserve {key} is none."
            continue  # a dry run
        answered.add(reservation_id)
        row = db.execute(
            "SELECT unit, estimate, scope_path, affected_scopes, expires_at_ms, tenant, idempotency_key"
            " FROM reservations WHERE reservation_id = ?",
            (reservation_id,),
        ).fetchone()
        if row is None:
            yield f"Reservation {reservation_id} is gone, though it was answered."
            continue
        unit, estimate, scope_path, scopes, expires_at_ms, *made_by = row
        said = [_said(body, path) for path in (("reserved", "unit"), ("reserved", "amount"), ("scope_path",))]
        if said != [unit, estimate, scope_path] or _said(body, ("affected_scopes",)) != json.loads(str(scopes)):
            yield f"Reservation {reservation_id} holds {estimate} {unit} of {scope_path}, and was answered otherwise."
        if expiry.get(reservation_id, _said(body, ("expires_at_ms",))) != expires_at_ms:
            yield f"Reservation {reservation_id} runs out at {expires_at_ms}, and was answered otherwise."
        if made_by != [tenant, key]:
            yield f"Reservation {reservation_id} was made by {made_by[0]} as {made_by[1]}, and answered to another."
    for (reservation_id,) in db.execute("SELECT reservation_id FROM reservations"):
        if reservation_id not in answered:
            yield f"Reservation {reservation_id} was never answered."
    for (body,) in db.execute("SELECT body FROM idempotency WHERE endpoint = 'event'").fetchall():
        event_id = _said(body, ("event_id",))
        row = db.execute("SELECT amount, charged FROM events WHERE event_id = ?", (str(event_id),)).fetchone()
        if row is None:
            yield f"Event {event_id} is gone, though it was answered."
            continue
        amount, charged = row
        said_charged = _said(body, ("charged", "amount"))
        if charged != (amount if said_charged is None else said_charged):
            yield f"Event {event_id} was charged {charged}, and answered otherwise."


def _said(body: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON
    """Read a field of an answer; ``None`` if the answer lacks it."""
    found = json.loads(str(body))
    for name in path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _clock(db: apsw.Connection, now_ms: int) -> Iterator[str]:
    ledger_ms = int(str(db.execute("SELECT now_ms FROM clock").get))
    if ledger_ms > now_ms + CLOCK_LEEWAY_MS:
        ahead_seconds = (ledger_ms - now_ms) // 1_000
        yield (
            f"The ledger's time is {ahead_seconds} s ahead of this machine's clock, which was set back: until it has "
            "caught up, no lease runs out."
        )
