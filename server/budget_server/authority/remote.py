"""The Cycles server that ``CYCLES_BASE_URL`` names."""

from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesResponse

Body = BaseModel | dict[str, Any]


class RemoteCyclesClient(AsyncCyclesClient):
    """The client library's own, for ids that a model may have made up.

    The library puts an id into a path as it is: one such as ``../budgets`` or ``ID/release?`` would have this server's
    key ask for something else.
    """

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit (Cycles v0, commitReservation)."""
        return await super().commit_reservation(_segment(reservation_id), request)

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release (Cycles v0, releaseReservation)."""
        return await super().release_reservation(_segment(reservation_id), request)

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend (Cycles v0, extendReservation)."""
        return await super().extend_reservation(_segment(reservation_id), request)

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Show a reservation (Cycles v0, getReservation)."""
        return await super().get_reservation(_segment(reservation_id))


def _segment(text: str) -> str:
    """Write a text as one segment of a path (RFC 3986, section 3.3), whatever is in it; dots alone mean another one."""
    quoted = quote(text, safe="", errors="replace")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
