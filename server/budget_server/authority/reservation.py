"""One reservation: its row, its life cycle and its form in the protocol."""

import json
from collections.abc import Container
from typing import Any, NamedTuple

from budget_server.authority.refusals import Refusal, deny_detail
from budget_server.authority.requests import OveragePolicy


class Reservation(NamedTuple):
    """A row of ``reservations``, in the order of ``COLUMNS``; JSON columns are still text."""

    reservation_id: str
    tenant: str
    state: str
    unit: str
    estimate: int
    scope_path: str
    affected_scopes: str
    budgeted_scopes: str
    subject: str
    action: str
    idempotency_key: str
    metadata: str | None
    overage_policy: OveragePolicy
    created_at_ms: int
    expires_at_ms: int
    grace_ms: int
    extensions_left: int
    on_expiry: str
    charged: int | None
    settled_by: str | None
    finalized_at_ms: int | None
    committed_metadata: str | None
    quotas: str | None
    """The quota buckets that counted its call, as JSON."""
    owner: str
    """The only one who settles and extends it (``delegation:ID``); empty if any caller of its tenant may."""

    @property
    def expired_at_ms(self) -> int:
        """The first moment at which lease and grace are over."""
        return self.expires_at_ms + self.grace_ms + 1

    @property
    def is_provisional(self) -> bool:
        """Whether expiry charged it without knowing the actual; a later commit may still replace the charge."""
        return self.state == "COMMITTED" and self.settled_by == "expiry"


COLUMNS = ", ".join(Reservation._fields)


def refuse_settled(row: Reservation) -> None:
    """Check that a reservation to be settled or extended is still ACTIVE.

    Raises:
        Refusal: 410 RESERVATION_EXPIRED or 409 RESERVATION_FINALIZED.
    """
    if row.state == "EXPIRED":
        raise expired(row.reservation_id)
    if row.state != "ACTIVE":
        raise Refusal(
            409,
            "RESERVATION_FINALIZED",
            f"Reservation {row.reservation_id} is already {row.state.lower()}.",
            deny_detail("RESERVATION_FINALIZED", "There is nothing left to do.", blocked_by_scope=row.scope_path),
        )


DELEGATION_OWNER = "delegation:"
"""Prefix of the owner of a delegation's reservations; the delegation's id follows."""


def refuse_others(row: Reservation, speaker: str) -> None:
    """Refuse to settle or extend a reservation of another owner.

    Clients do not repeat a call for this code: with 401 or 403, the client library would wait for better credentials
    and send it again.

    Raises:
        Refusal: 409 FORBIDDEN.
    """
    if row.owner in ("", speaker):
        return
    raise Refusal(
        409,
        "FORBIDDEN",
        f"Reservation {row.reservation_id} belongs to delegation {row.owner.removeprefix(DELEGATION_OWNER)}: "
        "cancel that with delegation_status.",
        deny_detail("FORBIDDEN", "Cancel the delegation; it settles what it holds by itself.", owner=row.owner),
    )


def expired(reservation_id: str) -> Refusal:
    """Build the refusal for a reservation whose lease and grace have passed."""
    return Refusal(410, "RESERVATION_EXPIRED", f"Reservation {reservation_id} has expired.")


OPTIONAL_FIELDS = frozenset({"metadata", "committed_metadata"})
"""Fields that a list shows only if its ``include`` asks for them, and the single view always."""

OWNER_FIELD = "owner"
"""Shown within this process only: the protocol's Reservation has no such field."""


def wire(row: Reservation, *, include: Container[str]) -> dict[str, Any]:
    """Return a reservation in the protocol's form, with the optional fields in ``include``."""
    body: dict[str, Any] = {
        "reservation_id": row.reservation_id,
        "status": row.state,
        "idempotency_key": row.idempotency_key,
        "subject": json.loads(row.subject),
        "action": json.loads(row.action),
        "reserved": {"unit": row.unit, "amount": row.estimate},
        "created_at_ms": row.created_at_ms,
        "expires_at_ms": row.expires_at_ms,
        "scope_path": row.scope_path,
        "affected_scopes": json.loads(row.affected_scopes),
    }
    if row.finalized_at_ms is not None:
        body["finalized_at_ms"] = row.finalized_at_ms
    if row.charged is not None:
        body["committed"] = {"unit": row.unit, "amount": row.charged}
    if "metadata" in include and row.metadata is not None:
        body["metadata"] = json.loads(row.metadata)
    if "committed_metadata" in include and row.committed_metadata is not None:
        body["committed_metadata"] = json.loads(row.committed_metadata)
    if OWNER_FIELD in include and row.owner:
        body[OWNER_FIELD] = row.owner
    return body
