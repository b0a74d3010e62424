"""The consistency of a whole data directory: the ledger, the delegations, and their agreement.

The delegations are read first. The ledger had settled a spend before its delegation recorded it as settled; so the
ledger, read later, must have it. A spend that a delegation still has open may be settled in the ledger already, and
that is not an error.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import apsw

from budget_server.auth.schema import ACCESS_KIND
from budget_server.auth.tokens import ACCESS_FILE
from budget_server.authority.audit import audit as audit_ledger
from budget_server.config.paths import LEDGER_FILE
from budget_server.database.audit import MAX_FINDINGS, damage, one_moment
from budget_server.delegations.audit import Told
from budget_server.delegations.audit import audit as audit_delegations
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_tools.core.errors import ConfigurationError
from budget_tools.core.money import USD_MICROCENTS, Money, format_usd
from budget_tools.core.scopes import clear_command


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The findings of an inspection, and the number of items inspected."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Observations that are not errors, but worth knowing."""
    counts: list[str] = field(default_factory=list)


def inspect(directory: Path, now_ms: int | None) -> Inspection:
    """Check every existing file of a data directory.

    Args:
        directory: the data directory, or a copy of one; nothing in it is changed.
        now_ms: the machine's time, in epoch milliseconds; ``None`` leaves the ledger's clock out.

    Raises:
        ConfigurationError: a file cannot be read at all.
    """
    found = Inspection()
    told = _delegations(directory / DELEGATIONS_FILE, found)
    ledger = directory / LEDGER_FILE
    if ledger.exists():
        is_sound = _ledger(ledger, now_ms, found)
        if is_sound and told:
            with _reading(ledger):
                _compare(ledger, told, found)
    _tokens(directory / ACCESS_FILE, found)
    return found


def _ledger(path: Path, now_ms: int | None, found: Inspection) -> bool:
    with _reading(path):
        result = audit_ledger(path, now_ms)
    found.notes.extend(_uncovered(path) if not result.findings else ())
    found.findings.extend(result.findings)
    found.counts.insert(0, f"{result.budgets} budgets, {result.reservations} reservations, {result.events} events")
    return not result.findings


def _uncovered(path: Path) -> list[str]:
    with _reading(path), one_moment(path) as db:
        rows = db.execute("SELECT scope, unit, uncovered FROM budgets WHERE uncovered > 0 ORDER BY scope, unit")
        return [
            f"{Money.of(int(str(amount)), str(unit))} was spent on {scope} that no budget covered: "
            f"`{clear_command(str(scope), str(unit))}` once you have seen it."
            for scope, unit, amount in rows
        ]


def _delegations(path: Path, found: Inspection) -> list[Told]:
    if not path.exists():
        return []
    with _reading(path):
        result = audit_delegations(path)
    found.findings.extend(f"{path.name}: {finding}" for finding in islice(result.findings, MAX_FINDINGS))
    found.counts.append(f"{len(result.told)} delegations with {sum(len(each.turns) for each in result.told)} turns")
    spends = [spend for each in result.told for spend in each.spends]
    if spends:
        bound = sum(spend.bound for spend in spends if spend.unit == USD_MICROCENTS)
        found.notes.append(
            f"Delegations have {len(spends)} spends open, in flight or held: ${format_usd(bound)} at most. They are "
            "settled by the process that runs them, or at the next start."
        )
    return result.told


def _tokens(path: Path, found: Inspection) -> None:
    if not path.exists():
        return
    with _reading(path), one_moment(path) as db:
        found.findings.extend(f"{path.name}: {problem}" for problem in damage(db, ACCESS_KIND))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert SQLite's errors about an unreadable file into one sentence."""
    try:
        yield
    except apsw.Error as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc}. Restore a backup.") from exc


class _Reserved(NamedTuple):
    state: str
    unit: str
    estimate: int
    charged: int | None


def _compare(path: Path, told: Iterable[Told], found: Inspection) -> None:
    with one_moment(path) as db:
        elsewhere = 0
        findings: list[str] = []
        for each in told:
            ids = {turn.reservation_id for turn in each.turns if turn.charged is not None}
            ids |= {spend.reservation_id for spend in each.spends}
            reserved = {name: row for name in ids if (row := _reserved(db, name)) is not None}
            if ids and not reserved:
                elsewhere += 1
                continue
            findings += _contradictions(db, each, reserved)
    found.findings.extend(findings[:MAX_FINDINGS])
    if elsewhere:
        found.notes.append(
            f"{elsewhere} of the delegations have no reservation in this ledger: they were paid for on a Cycles "
            "server, or from a ledger that is no longer here."
        )


def _contradictions(db: apsw.Connection, told: Told, reserved: dict[str, _Reserved]) -> Iterator[str]:
    where = f"delegation {told.delegation_id}"
    for spend in told.spends:
        row = reserved.get(spend.reservation_id)
        if row is None:
            yield f"A spend of {where} is under reservation {spend.reservation_id}, which the ledger does not have."
        elif (row.unit, row.estimate) != (spend.unit, spend.bound):
            yield (
                f"A spend of {where} may cost {spend.bound} {spend.unit}, and its reservation "
                f"{spend.reservation_id} holds {row.estimate} {row.unit}."
            )
    still_open = {spend.reservation_id for spend in told.spends}
    for turn in told.turns:
        if turn.charged is None or turn.reservation_id in still_open:
            continue
        row, charged = reserved.get(turn.reservation_id), turn.charged
        which = f"Turn {turn.number} of {where}"
        if row is None:
            yield f"{which} was paid for from reservation {turn.reservation_id}, which the ledger does not have."
        elif (row.state, row.unit, row.charged) == ("COMMITTED", charged.unit, charged.amount):
            continue
        elif _is_booked(db, turn.reservation_id, charged.amount):
            continue  # it expired first, or another process had settled it
        elif row.state == "COMMITTED":
            yield f"{which} was charged {charged.amount} {charged.unit}, and in the ledger {row.charged} {row.unit}."
        else:
            yield f"{which} was charged {charged.amount}, and its reservation in the ledger is {row.state}."


def _reserved(db: apsw.Connection, reservation_id: str) -> _Reserved | None:
    row = db.execute(
        "SELECT state, unit, estimate, charged FROM reservations WHERE reservation_id = ?", (reservation_id,)
    ).fetchone()
    if row is None:
        return None
    state, unit, estimate, charged = row
    return _Reserved(str(state), str(unit), int(str(estimate)), None if charged is None else int(str(charged)))


def _is_booked(db: apsw.Connection, reservation_id: str, amount: int) -> bool:
    """Return whether a spend was recorded as an event, because its reservation could no longer be committed."""
    return bool(
        db.execute(
            "SELECT EXISTS (SELECT 1 FROM events JOIN reservations ON reservation_id = ?1"
            " WHERE events.charged = ?2 AND (?1 IN (json_extract(events.metadata, '$.reservation_id'),"
            " json_extract(events.metadata, '$.recovered_reservation_id'))"
            " OR events.idempotency_key = 'commit-' || reservations.idempotency_key))",
            (reservation_id, amount),
        ).get
    )
