"""Call quotas: limits on how often an action kind may be reserved below a scope, per run, minute or day.

None exist unless a person sets one. They follow the announced v0.1.26 of the protocol: counted at reserve, in the
reserve's own transaction; minutes and days are calendar ones in UTC; ``subject.dimensions.run_id`` names the run, and
its count falls again when a reservation is released or expires without a charge.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple, get_args

import apsw

from budget_server.authority.refusals import Refusal, deny_detail
from budget_server.authority.requests import Action, Subject, json_text
from budget_server.authority.reservation import Reservation
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.subjects import RUN_ID

Window = Literal["run", "minute", "day"]
WINDOWS: tuple[str, ...] = get_args(Window)

MAX_CALLS = 100_000
"""Largest quota, as announced for v0.1.26."""

_WINDOW_MS = {"minute": 60_000, "day": 86_400_000}
_RUN_KEPT_MS = 30 * 86_400_000  # a run without a call for a month is over


class Quota(NamedTuple):
    """A row of ``quotas``."""

    scope: str
    action_kind: str
    window: str
    max_calls: int


_SELECT = "SELECT scope, action_kind, window, max_calls FROM quotas"


class Bucket(NamedTuple):
    """The window in which a call of a quota is counted."""

    scope: str
    action_kind: str
    window: str
    bucket: str
    """The run's id, or the start of the minute or day in epoch milliseconds."""


def admit(
    db: apsw.Connection, tenant: str, scopes: Sequence[str], action: Action, subject: Subject, now_ms: int
) -> list[Bucket]:
    """Check a call against every quota of its kind, root to leaf, and return the buckets that would count it.

    Raises:
        Refusal: 409 ACTION_QUOTA_EXCEEDED; 400 if a quota is per run and the subject names no run.
    """
    found = db.execute(f"{_SELECT} WHERE tenant = ? AND action_kind = ?", (tenant, action.kind))
    of_kind = sorted((Quota(*row) for row in found), key=lambda quota: len(quota.scope))
    buckets: list[Bucket] = []
    for quota in (each for each in of_kind if each.scope in scopes):
        bucket = Bucket(quota.scope, quota.action_kind, quota.window, _bucket(quota, subject, now_ms))
        calls = _calls(db, bucket)
        if calls >= quota.max_calls:
            raise _exceeded(quota, calls, now_ms)
        buckets.append(bucket)
    return buckets


def count(db: apsw.Connection, buckets: Sequence[Bucket], now_ms: int) -> None:
    """Count an admitted call."""
    for bucket in buckets:
        db.execute(
            "INSERT INTO quota_counts (scope, action_kind, window, bucket, calls, counted_at_ms)"
            " VALUES (?, ?, ?, ?, 1, ?)"
            " ON CONFLICT DO UPDATE SET calls = calls + 1, counted_at_ms = excluded.counted_at_ms",
            (*bucket, now_ms),
        )
        if _calls(db, bucket) == 1:  # a new bucket: the time to delete old ones of its quota
            kept_ms = _WINDOW_MS.get(bucket.window, _RUN_KEPT_MS)
            db.execute(
                "DELETE FROM quota_counts WHERE scope = ? AND action_kind = ? AND window = ? AND counted_at_ms < ?",
                (*bucket[:3], now_ms - kept_ms),
            )


def uncount(db: apsw.Connection, row: Reservation, windows: Collection[str]) -> None:
    """Remove a reservation's call from the buckets of these windows that still exist."""
    if row.quotas is None:
        return
    for bucket in (Bucket(*each) for each in json.loads(row.quotas)):
        if bucket.window in windows:
            db.execute(
                "UPDATE quota_counts SET calls = calls - 1"
                " WHERE scope = ? AND action_kind = ? AND window = ? AND bucket = ? AND calls > 0",
                bucket,
            )


def counted_in(buckets: Sequence[Bucket]) -> str | None:
    """Return the JSON, for the reservation's row, of the buckets that counted its call."""
    return json_text(buckets) if buckets else None


def all_quotas(db: apsw.Connection) -> list[Quota]:
    """Return every quota of the ledger, by scope."""
    return [Quota(*row) for row in db.execute(f"{_SELECT} ORDER BY scope, action_kind, window")]


def set_quota(db: apsw.Connection, tenant: str, quota: Quota) -> None:
    """Set a quota; calls counted so far still count."""
    db.execute(
        "INSERT INTO quotas (tenant, scope, action_kind, window, max_calls) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET max_calls = excluded.max_calls",
        (tenant, *quota),
    )


def remove_quota(db: apsw.Connection, tenant: str, *, scope: str, action_kind: str, window: str) -> None:
    """Remove a quota and its counts.

    Raises:
        InvalidArgumentError: the quota does not exist; nothing was written.
    """
    place = (scope, action_kind, window)
    db.execute("DELETE FROM quotas WHERE tenant = ? AND scope = ? AND action_kind = ? AND window = ?", (tenant, *place))
    if db.changes() == 0:
        raise InvalidArgumentError(
            f"{scope} has no quota of {action_kind} per {window}: `budget quota list` shows all."
        )
    db.execute("DELETE FROM quota_counts WHERE scope = ? AND action_kind = ? AND window = ?", place)


def _bucket(quota: Quota, subject: Subject, now_ms: int) -> str:
    if quota.window != "run":
        return str(now_ms - now_ms % _WINDOW_MS[quota.window])
    run_id = (subject.dimensions or {}).get(RUN_ID, "")
    if not run_id:
        raise Refusal(
            400,
            "INVALID_REQUEST",
            f"Validation failed: subject.dimensions.{RUN_ID}: is required, "
            f"because {quota.scope} has a quota of {quota.action_kind} per run",
        )
    return run_id


def _calls(db: apsw.Connection, bucket: Bucket) -> int:
    row = db.execute(
        "SELECT calls FROM quota_counts WHERE scope = ? AND action_kind = ? AND window = ? AND bucket = ?", bucket
    ).fetchone()
    return 0 if row is None else int(row[0])


def _exceeded(quota: Quota, calls: int, now_ms: int) -> Refusal:
    limit = f"{quota.max_calls} calls of {quota.action_kind} per {quota.window}"
    detail: dict[str, Any] = {
        "quota_violation": {
            "action_kind": quota.action_kind,
            "window": quota.window,
            "max_calls": quota.max_calls,
            "calls": calls,
        }
    }
    remedy = "Ask a person to raise the quota, or start another run."
    if quota.window != "run":
        remedy = f"Wait until the {quota.window} is over, or ask a person to raise the quota."
        detail["retry_after_ms"] = _WINDOW_MS[quota.window] - now_ms % _WINDOW_MS[quota.window]
    return Refusal(
        409,
        "ACTION_QUOTA_EXCEEDED",
        f"Scope {quota.scope} allows {limit}, and all are used.",
        deny_detail("ACTION_QUOTA_EXCEEDED", remedy, blocked_by_scope=quota.scope, **detail),
    )
