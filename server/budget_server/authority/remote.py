"""The Cycles server that ``CYCLES_BASE_URL`` names."""

import logging
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse

from budget_server.authority.answers import UNREADABLE, read
from budget_tools.core.ids import can_travel
from budget_tools.core.network import client_options

logger = logging.getLogger(__name__)

Body = BaseModel | dict[str, Any]

_WRITE_SECONDS = 5.0


class RemoteCyclesClient(AsyncCyclesClient):
    """The client library's own client, safe for ids that a model made up and for answers with unknown fields.

    The library puts an id into a path unchanged: an id such as ``../budgets`` or ``ID/release?`` would make this
    server's key request something else.

    Raises:
        ConfigurationError: a proxy or certificate variable cannot be used.
    """

    def __init__(self, config: CyclesConfig) -> None:
        # Not super().__init__, whose HTTP client fails on proxies and certificates that it cannot use.
        self._config = config
        self._http = httpx.AsyncClient(
            base_url=config.base_url,
            headers={"X-Cycles-API-Key": config.api_key},
            timeout=httpx.Timeout(
                connect=config.connect_timeout, read=config.read_timeout, write=_WRITE_SECONDS, pool=_WRITE_SECONDS
            ),
            **client_options(config.base_url),
        )

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve (Cycles v0, createReservation); a reservation whose answer cannot be read is released."""
        response = await super().create_reservation(request)
        holds = not _field(request, "dry_run")
        answer = read("reserve", response, holds=holds)
        if answer.error_message == UNREADABLE and holds:
            reservation_id = response.get_body_attribute("reservation_id") if isinstance(response.body, dict) else None
            with anyio.CancelScope(shield=True):
                if isinstance(reservation_id, str) and reservation_id:
                    await self._give_back(reservation_id)
                else:
                    for found in await self._held_under(str(_field(request, "idempotency_key"))):
                        await self._give_back(found)
        return answer

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit (Cycles v0, commitReservation)."""
        return read("commit", await super().commit_reservation(_segment(reservation_id), request))

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release (Cycles v0, releaseReservation)."""
        return read("release", await super().release_reservation(_segment(reservation_id), request))

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend (Cycles v0, extendReservation)."""
        return read("extend", await super().extend_reservation(_segment(reservation_id), request))

    async def decide(self, request: Body) -> CyclesResponse:
        """Decide (Cycles v0, decide)."""
        return read("decide", await super().decide(request))

    async def create_event(self, request: Body) -> CyclesResponse:
        """Record an event (Cycles v0, createEvent)."""
        return read("event", await super().create_event(request))

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Return a reservation (Cycles v0, getReservation)."""
        return read("show", await super().get_reservation(_segment(reservation_id)))

    async def list_reservations(self, **query_params: str) -> CyclesResponse:
        """List reservations (Cycles v0, listReservations)."""
        return read("list", await super().list_reservations(**query_params))

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """Return balances (Cycles v0, getBalances)."""
        return read("balances", await super().get_balances(**query_params))

    async def _post(self, path: str, body: Body) -> CyclesResponse:
        key = _field(body, "idempotency_key")
        if isinstance(key, str) and not can_travel(key):
            # The library sends it as a header too. Refused permanently: sending it again would change nothing.
            said = "idempotency_key has characters that cannot travel in a header"
            return CyclesResponse.http_error(
                400, said, {"error": "INVALID_REQUEST", "message": said, "request_id": "none"}
            )
        return await super()._post(path, body)

    async def _give_back(self, reservation_id: str) -> None:
        logger.warning(
            "The Cycles server's answer to a reserve cannot be read: reservation %s is given back", reservation_id
        )
        release = {"idempotency_key": f"unread-{reservation_id}"[:256], "reason": "the answer cannot be read"}
        await super().release_reservation(_segment(reservation_id), release)

    async def _held_under(self, key: str) -> list[str]:
        """Return the ids of the active reservations that were made under a key."""
        listed = await self.list_reservations(idempotency_key=key, status="ACTIVE")
        rows = listed.body.get("reservations") if listed.is_success and isinstance(listed.body, dict) else None
        ids = [row.get("reservation_id") for row in rows or () if isinstance(row, dict)]
        return [each for each in ids if isinstance(each, str) and each]


def _field(body: Body, name: str) -> object:
    return body.get(name) if isinstance(body, dict) else getattr(body, name, None)


def _segment(text: str) -> str:
    """Return any text as one segment of a path (RFC 3986, section 3.3); dots alone would mean another segment."""
    quoted = quote(text, safe="", errors="replace")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
