"""Resource URIs that hosts can read besides calling tools: named where budgets change, served by the server."""

BALANCES = "budget://balances"
PRICES = "budget://prices"
GUIDE = "budget://guide"
RESERVATION = "budget://reservations/{reservation_id}"
DELEGATION = "budget://delegations/{delegation_id}"


def reservation_uri(reservation_id: str) -> str:
    """Return the URI of a reservation."""
    return RESERVATION.replace("{reservation_id}", reservation_id)


def delegation_uri(delegation_id: str) -> str:
    """Return the URI of a delegation."""
    return DELEGATION.replace("{delegation_id}", delegation_id)
