"""The read side: pages of reservations and balances of a tenant (Cycles v0, listReservations and getBalances)."""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import apsw

from budget_server.authority import balance, reservation
from budget_server.authority.balance import Budget
from budget_server.authority.refusals import Refusal
from budget_server.authority.replay import Answer
from budget_server.authority.requests import MAX_AMOUNT, MAX_KEY_CHARACTERS
from budget_server.authority.reservation import Reservation
from budget_tools.core.scopes import LEVELS

DEFAULT_LIMIT, MAX_LIMIT = 50, 200

_SORT_COLUMNS = {
    "reservation_id": "reservation_id",
    "tenant": "tenant",
    "scope_path": "scope_path",
    "status": "state",
    "reserved": "estimate",
    "created_at_ms": "created_at_ms",
    "expires_at_ms": "expires_at_ms",
}
_WINDOWS = (
    ("from", "created_at_ms >= ?"),
    ("to", "created_at_ms <= ?"),
    ("expires_from", "expires_at_ms >= ?"),
    ("expires_to", "expires_at_ms <= ?"),
    ("finalized_from", "finalized_at_ms >= ?"),
    ("finalized_to", "finalized_at_ms <= ?"),
)
_STATES = ("ACTIVE", "COMMITTED", "RELEASED", "EXPIRED")


def list_reservations(
    db: apsw.Connection, tenant: str, query: Mapping[str, str], *, shows_owner: bool = False
) -> Answer:
    """List a page of the tenant's reservations, newest first unless the query sorts otherwise.

    Owners are shown only to callers within this process: the protocol's Reservation has no such field.

    Raises:
        Refusal: 400 for an invalid filter, sort, limit or cursor; 403 for another tenant.
    """
    _check_text(query)
    conditions, values = _reservation_filter(query)
    sort_by, descending = _sorting(query)
    limit = _limit(query)
    fingerprint = _fingerprint(conditions, values, sort_by, descending)
    column = _SORT_COLUMNS[sort_by]
    if query.get("cursor"):
        last_value, last_id = _read_cursor(query["cursor"], fingerprint)
        beyond = "<" if descending else ">"
        # Not as one OR: this way an index can start at the first condition.
        conditions += [f"{column} {beyond}= ?", f"({column} {beyond} ? OR reservation_id > ?)"]
        values += [last_value, last_value, last_id]
    _own_tenant(tenant, query)
    tenant_column, order = _index_choice(query, column)
    direction = "DESC" if descending else "ASC"
    found: list[Any] = db.execute(
        f"SELECT {reservation.COLUMNS} FROM reservations"  # noqa: S608 - constants of this module
        f" WHERE {' AND '.join([f'{tenant_column} = ?', *conditions])}"
        f" ORDER BY {order} {direction}, reservation_id LIMIT ?",
        (tenant, *values, limit + 1),
    ).fetchall()
    page = [Reservation(*row) for row in found[:limit]]
    include = {token.strip() for token in query.get("include", "").split(",")} & reservation.OPTIONAL_FIELDS
    if shows_owner:
        include |= {reservation.OWNER_FIELD}
    body: dict[str, Any] = {
        "reservations": [reservation.wire(row, include=include) for row in page],
        "has_more": len(found) > limit,
    }
    if len(found) > limit:
        value = getattr(page[-1], {"status": "state", "reserved": "estimate"}.get(sort_by, sort_by))
        body["next_cursor"] = _write_cursor(fingerprint, value, page[-1].reservation_id)
    return Answer(200, body)


def _reservation_filter(query: Mapping[str, str]) -> tuple[list[str], list[str | int]]:
    """Convert the filters of a query into SQL conditions and their values."""
    conditions: list[str] = []
    values: list[str | int] = []
    if "idempotency_key" in query:
        if not 1 <= len(query["idempotency_key"]) <= MAX_KEY_CHARACTERS:
            raise _invalid("idempotency_key", f"must have 1 to {MAX_KEY_CHARACTERS} characters")
        conditions.append("idempotency_key = ?")
        values.append(query["idempotency_key"])
    if "status" in query:
        # Written as literals: SQLite does not use a partial index of one state for a parameter that may be another.
        conditions.append(f"state = '{_one_of('status', query['status'], _STATES)}'")
    for level in LEVELS[1:]:
        if level in query:
            conditions.append(_HAS_SEGMENT)
            values.append(_segment(level, query[level]))
    _window_conditions(query, conditions, values)
    return conditions, values


def _index_choice(query: Mapping[str, str], column: str) -> tuple[str, str]:
    """Return the tenant column and the order for SQLite to use the right index: a unary + excludes an index."""
    if "idempotency_key" in query:
        return "tenant", f"+{column}"  # by tenant and key; the order is of one row
    if query.get("status") == "ACTIVE" or column != "created_at_ms":
        return "+tenant", column  # by what is due, or in the order itself
    return "tenant", column  # by tenant and creation


def balances(db: apsw.Connection, tenant: str, query: Mapping[str, str]) -> Answer:
    """List a page of the tenant's budgets whose paths contain all the given segments, in all units, by scope and unit.

    Raises:
        Refusal: 400 without any subject filter, or for an invalid limit or cursor; 403 for another tenant.
    """
    _check_text(query)
    wanted = [(level, query[level]) for level in LEVELS if level in query]
    if not wanted:
        raise Refusal(400, "INVALID_REQUEST", f"Give at least one of {', '.join(LEVELS)}.")
    conditions = ["tenant = ?", *[_HAS_SEGMENT.replace("scope_path", "scope")] * len(wanted)]
    values: list[str | int] = [tenant, *(_segment(level, value) for level, value in wanted)]
    if query.get("include_children", "").lower() not in ("", "true", "false"):
        raise _invalid("include_children", "must be true or false; children are always included")
    limit = _limit(query)
    fingerprint = _fingerprint(conditions, values)
    if query.get("cursor"):
        conditions.append("(scope, unit) > (?, ?)")
        values += _read_cursor(query["cursor"], fingerprint)
    _own_tenant(tenant, query)
    found: list[Any] = db.execute(
        f"SELECT {balance.COLUMNS} FROM budgets WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants of this module
        " ORDER BY scope, unit LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    page = [Budget(*row) for row in found[:limit]]
    body: dict[str, Any] = {"balances": [budget.wire() for budget in page], "has_more": len(found) > limit}
    if len(found) > limit:
        body["next_cursor"] = _write_cursor(fingerprint, page[-1].scope, page[-1].unit)
    return Answer(200, body, uncovered=balance.uncovered_of(page))


# Whole segments only: `agent:bot` must not find `agent:bot2`, nor `my-agent:bot`.
_HAS_SEGMENT = "instr('/' || scope_path || '/', ?) > 0"


def _segment(level: str, value: str) -> str:
    return f"/{level}:{value.lower()}/"


def _check_text(query: Mapping[str, str]) -> None:
    for name, value in query.items():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise _invalid(name, "must be valid Unicode") from exc


def _own_tenant(tenant: str, query: Mapping[str, str]) -> None:
    if query.get("tenant", tenant) != tenant:
        raise Refusal(403, "FORBIDDEN", f"The tenant filter is not {tenant}.")


def _window_conditions(query: Mapping[str, str], conditions: list[str], values: list[str | int]) -> None:
    bounds: dict[str, int] = {}
    for name, condition in _WINDOWS:
        text = query.get(name, "").strip()
        if text:
            bounds[name] = _instant_ms(name, text)
            conditions.append(condition)
            values.append(bounds[name])
    for start, end in (("from", "to"), ("expires_from", "expires_to"), ("finalized_from", "finalized_to")):
        if start in bounds and end in bounds and bounds[start] > bounds[end]:
            raise _invalid(start, f"must not be after {end}")


def _instant_ms(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as exc:
        raise _invalid(name, "must be an ISO-8601 instant such as 2026-11-23T10:00:00Z") from exc
    if moment.tzinfo is None:
        raise _invalid(name, "must carry a time zone, such as the Z of 2026-11-23T10:00:00Z")
    return int(moment.timestamp() * 1000)


def _sorting(query: Mapping[str, str]) -> tuple[str, bool]:
    sort_by = _one_of("sort_by", query.get("sort_by", "created_at_ms"), _SORT_COLUMNS)
    sort_dir = _one_of("sort_dir", query.get("sort_dir", "desc"), ("asc", "desc"))
    return sort_by, sort_dir == "desc"


def _one_of(name: str, value: str, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise _invalid(name, f"must be one of {', '.join(allowed)}")
    return value


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_LIMIT):
        raise _invalid("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _fingerprint(*query: object) -> str:
    """Return a hash of a query, so that a cursor of another query is refused."""
    return hashlib.sha256(json.dumps(query).encode()).hexdigest()[:16]


def _write_cursor(fingerprint: str, value: object, reservation_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([fingerprint, value, reservation_id]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, fingerprint: str) -> tuple[str | int, str]:
    try:
        made_for, value, reservation_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, RecursionError) as exc:
        raise _invalid("cursor", "is not one that this authority gave") from exc
    if made_for != fingerprint:
        raise _invalid("cursor", "belongs to another filter or sort order")
    is_value = value.isascii() if isinstance(value, str) else isinstance(value, int) and abs(value) <= MAX_AMOUNT
    if not is_value or not (isinstance(reservation_id, str) and reservation_id.isascii()):
        raise _invalid("cursor", "is not one that this authority gave")
    return value, reservation_id


def _invalid(field: str, problem: str) -> Refusal:
    return Refusal(400, "INVALID_REQUEST", f"Validation failed: {field}: {problem}")
