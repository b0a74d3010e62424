"""The read side: pages of reservations and balances of a tenant (Cycles v0, listReservations and getBalances)."""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import apsw

from budget_server.authority import balance, reservation
from budget_server.authority.balance import Budget
from budget_server.authority.refusals import Refusal
from budget_server.authority.replay import Answer
from budget_server.authority.requests import MAX_AMOUNT
from budget_server.authority.reservation import Reservation
from budget_tools.scopes import LEVELS

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


def list_reservations(db: apsw.Connection, tenant: str, query: Mapping[str, str]) -> Answer:
    """List a page of the tenant's reservations, newest first unless the query sorts otherwise.

    Raises:
        Refusal: 400 for a filter, sort, limit or cursor that cannot be; 403 for another tenant.
    """
    _check_text(query)
    _own_tenant(tenant, query)
    conditions = ["tenant = ?"]
    values: list[str | int] = [tenant]
    status = query.get("status", "")
    if status and status not in _STATES:
        raise _invalid("status", f"must be one of {', '.join(_STATES)}")
    for name, column in (("idempotency_key", "idempotency_key"), ("status", "state")):
        if query.get(name):
            conditions.append(f"{column} = ?")
            values.append(query[name])
    for level in LEVELS[1:]:
        if query.get(level):
            conditions.append(_HAS_SEGMENT)
            values.append(_segment(level, query[level]))
    _window_conditions(query, conditions, values)
    sort_by, descending = _sorting(query)
    limit = _limit(query)
    fingerprint = hashlib.sha256(json.dumps([conditions, values, sort_by, descending]).encode()).hexdigest()[:16]
    column = _SORT_COLUMNS[sort_by]
    if query.get("cursor"):
        last_value, last_id = _read_cursor(query["cursor"], fingerprint)
        beyond = "<" if descending else ">"
        conditions.append(f"({column} {beyond} ? OR ({column} = ? AND reservation_id > ?))")
        values += [last_value, last_value, last_id]
    direction = "DESC" if descending else "ASC"
    rows = [
        Reservation(*row)
        for row in db.execute(
            f"SELECT {reservation.COLUMNS} FROM reservations WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants of this module
            f" ORDER BY {column} {direction}, reservation_id LIMIT ?",
            (*values, limit + 1),
        )
    ]
    page = rows[:limit]
    include = {token.strip() for token in query.get("include", "").split(",")}
    body: dict[str, Any] = {
        "reservations": [reservation.wire(row, include=include) for row in page],
        "has_more": len(rows) > limit,
    }
    if len(rows) > limit:
        value = getattr(page[-1], {"status": "state", "reserved": "estimate"}.get(sort_by, sort_by))
        body["next_cursor"] = _write_cursor(fingerprint, value, page[-1].reservation_id)
    return Answer(200, body)


def balances(db: apsw.Connection, tenant: str, query: Mapping[str, str]) -> Answer:
    """Show every budget of the tenant whose path contains all the given segments, in all units.

    Raises:
        Refusal: 400 without any subject filter; 403 for another tenant.
    """
    _check_text(query)
    if not any(query.get(level) for level in LEVELS):
        raise Refusal(400, "INVALID_REQUEST", f"Give at least one of {', '.join(LEVELS)}.")
    _own_tenant(tenant, query)
    wanted = [(level, query[level]) for level in LEVELS if query.get(level)]
    conditions = ["tenant = ?", *[_HAS_SEGMENT.replace("scope_path", "scope")] * len(wanted)]
    rows = db.execute(
        f"SELECT {balance.COLUMNS} FROM budgets WHERE {' AND '.join(conditions)} ORDER BY scope, unit",  # noqa: S608 - constants of this module
        (tenant, *(_segment(level, value) for level, value in wanted)),
    )
    return Answer(200, {"balances": [Budget(*row).wire() for row in rows]})


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
    if query.get("tenant") and query["tenant"] != tenant:
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
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise _invalid(name, "must be an ISO-8601 instant such as 2026-11-23T10:00:00Z") from exc
    if moment.tzinfo is None:
        raise _invalid(name, "must carry a time zone, such as the Z of 2026-11-23T10:00:00Z")
    return int(moment.timestamp() * 1000)


def _sorting(query: Mapping[str, str]) -> tuple[str, bool]:
    sort_by = query.get("sort_by") or "created_at_ms"
    if sort_by not in _SORT_COLUMNS:
        raise _invalid("sort_by", f"must be one of {', '.join(_SORT_COLUMNS)}")
    sort_dir = query.get("sort_dir") or "desc"
    if sort_dir not in ("asc", "desc"):
        raise _invalid("sort_dir", "must be asc or desc")
    return sort_by, sort_dir == "desc"


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise _invalid("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


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
