"""Where a list of delegations goes on: opaque to those who carry it from page to page."""

import base64
import json

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.delegation.store import Stored


def write(last: Stored) -> str:
    """Name the place behind a delegation."""
    place = json.dumps([last.created_at_ms, last.delegation_id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def read(cursor: str) -> tuple[int, str]:
    """Give the place that a cursor names: when the last one was created, and its id.

    Raises:
        InvalidArgumentError: it is none that ``write`` made.
    """
    try:
        created_at_ms, delegation_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if type(created_at_ms) is int and abs(created_at_ms) < 2**63 and type(delegation_id) is str:
            return created_at_ms, delegation_id
    except (ValueError, TypeError):
        pass
    raise InvalidArgumentError("cursor is not one that this server gave: leave it out to begin anew.")
