"""Ownership of reservations: only a delegation itself settles its reservations, even if the authority cannot tell.

The embedded ledger refuses all other callers itself. A Cycles server does not know owners, so the tools check first: a
delegation names itself in the tags of all its reservations.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from budget_tools.core.errors import AuthorityError, InvalidArgumentError

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient

    from budget_tools.spends.settlement import Reservations

_OWNER = re.compile(r"delegation[:-]([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)


def delegation_of(row: Mapping[str, Any]) -> str:
    """Return the id of the delegation that a protocol Reservation belongs to; empty if it does not belong to one."""
    tags = (row.get("action") or {}).get("tags") or ()
    found = (_OWNER.fullmatch(str(each)) for each in (row.get("owner", ""), *tags))
    return next((match[1] for match in found if match), "")


def refuse_the_tag_of_a_delegation(tags: Sequence[str]) -> None:
    """Check that a caller's reservation does not name a delegation as its owner: nobody could settle it then.

    Raises:
        InvalidArgumentError: a tag has the form that is a delegation's own.
    """
    for number, tag in enumerate(tags):
        if match := _OWNER.fullmatch(tag):
            raise InvalidArgumentError(
                f"tags.{number}: such a tag marks what a delegation itself reserves and settles: write for-{match[1]}."
            )


async def refuse_a_delegations(cycles: "AsyncCyclesClient", reservations: "Reservations", reservation_id: str) -> None:
    """Raise if a reservation to settle or extend belongs to a delegation; an unknown one is left to the authority.

    Raises:
        AuthorityError: it belongs to one; the authority was not asked to change it.
    """
    action = reservations.action_of(reservation_id)
    if action is None:
        body: object = (await cycles.get_reservation(reservation_id)).body
        row: Mapping[str, Any] = body if isinstance(body, dict) else {}
    else:
        row = {"action": action}
    delegation_id = delegation_of(row)
    if delegation_id:
        raise AuthorityError(
            f"Reservation {reservation_id} belongs to delegation {delegation_id}: cancel that with delegation_status.",
            code="FORBIDDEN",
            status=409,
        )
