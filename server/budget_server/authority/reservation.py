"""One reservation: its row, its life and how the protocol shows it."""

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
    """The quota buckets that its call was counted in, as JSON."""
    owner: str
    """Who alone settles and extends it (``delegation:ID``); empty if anybody of its tenant may."""

    @property
    def expired_at_ms(self) -> int:
        """The first moment at which lease and grace are over."""
        return self.expires_at_ms + self.grace_ms + 1

    @property
    def is_provisional(self) -> bool:
        """Whether expiry charged it for want of knowledge; whoever knows better may still commit."""
        return self.state == "COMMITTED" and self.settled_by == "expiry"


COLUMNS = ", ".join(Reservation._fields)


def refuse_settled(row: Reservation) -> None:
    """Refuse to settle or extend what has left ACTIVE.

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
"""How the owner of a delegation's reservations begins; its id follows."""


def refuse_others(row: Reservation, speaker: str) -> None:
    """Refuse to settle or extend what belongs to somebody else.

    The code is one that no client repeats a call for: with 401 or 403, the client library would wait for better
    credentials and send it again.

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
    """Say that the lease and its grace have passed."""
    return Refusal(410, "RESERVATION_EXPIRED", f"Reservation {reservation_id} has expired.")


OPTIONAL_FIELDS = frozenset({"metadata", "committed_metadata"})
"""What a list shows only where its ``include`` asks for it, and the single view always."""

OWNER_FIELD = "owner"
"""Shown within this process alone: the protocol's Reservation has no such field."""


def wire(row: Reservation, *, include: Container[str]) -> dict[str, Any]:
    """Show a reservation as the protocol does, with those of the optional fields that are to be included."""
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
