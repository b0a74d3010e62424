"""Positions in a list of delegations, opaque to the clients that carry them from page to page."""

import base64
import json

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.delegation.store import Stored


def write(last: Stored) -> str:
    """Return the cursor for the position after a delegation."""
    place = json.dumps([last.created_at_ms, last.delegation_id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def read(cursor: str) -> tuple[int, str]:
    """Return the position that a cursor names: when the last delegation was created, and its id.

    Raises:
        InvalidArgumentError: ``write`` did not make the cursor.
    """
    try:
        created_at_ms, delegation_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if type(created_at_ms) is int and abs(created_at_ms) < 2**63 and type(delegation_id) is str:
            return created_at_ms, delegation_id
    except (ValueError, TypeError):
        pass
    raise InvalidArgumentError("cursor is not one that this server gave: leave it out to begin anew.")
