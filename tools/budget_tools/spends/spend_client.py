"""The budget authority as one delegation uses it: its reservations are its own, and what it spent is charged.

Everything that a delegation spends passes through here: turns, last answers, tool calls, commits that are repeated in
the background, and what a later process settles. Two promises are kept for all of them.

*A reservation belongs to the delegation that made it.* Only that delegation can settle or extend it in the embedded
ledger (``owned_by``). A Cycles server knows tenants, not delegations: any holder of a key of the tenant can settle it.

*A spend is charged once, whatever others did to its reservation.*

    what the authority says to the commit       what is done
    committed                                   charged
    expired, settled by another party, or gone  booked as an event, in full, under the key of the commit
    anything else                               for the caller to judge

In full even if another party has committed an amount: that was charged for it, and nothing yet for what Claude has
billed. The key shows whether the reservation was settled by another party or by an earlier attempt of ours: ours would
be answered with the first answer, or as a mismatch. Hence the key of a settlement must be unknown to all others before
it is used. The key of a reserve can be read by all who may list reservations, so a reserve leaves under a digest of it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesResponse

from budget_tools.spends.records import Settled
from budget_tools.spends.responses import body_of
from budget_tools.spends.settlement import is_booked, is_committed

Body = BaseModel | dict[str, Any]

GONE_CODES = frozenset({"RESERVATION_FINALIZED", "RESERVATION_EXPIRED", "NOT_FOUND"})
"""Protocol error codes by which an authority says that a reservation can no longer be charged."""

DELEGATION_ID = "delegation_id"
"""Key in a commit's metadata: the delegation whose spend it is."""

RELEASE_REASON = "stream_failed"
"""Reason that the client library gives when it releases a reservation under which nothing was spent."""


def reserve_key(key: str) -> str:
    """Return the idempotency key under which a reserve leaves: the spend's own key cannot be derived from it."""
    return f"reserve-{hashlib.sha256(key.encode()).hexdigest()[:40]}"


@runtime_checkable
class OwningClient(Protocol):
    """An authority that lets only a delegation itself settle its reservations."""

    def owned_by(self, delegation_id: str) -> AsyncCyclesClient:
        """Return the authority as this delegation uses it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reserved:
    subject: Mapping[str, Any]
    action: Mapping[str, Any]


class SpendClient(AsyncCyclesClient):
    """A client for one delegation, or with ``""`` for the delegation that each commit names.

    Args:
        cycles: the authority, for all that this process does on its own account.
        delegation_id: whose spends are settled.
    """

    def __init__(self, cycles: AsyncCyclesClient, delegation_id: str = "") -> None:
        # super().__init__ would only build an HTTP client that is never used.
        self._cycles = cycles
        self._own = cycles
        if delegation_id and isinstance(cycles, OwningClient):
            self._own = cycles.owned_by(delegation_id)
        self._config = cycles._config  # noqa: SLF001 - the client library's own parts read it there
        self._delegation_id = delegation_id
        self._reserved: dict[str, _Reserved] = {}
        self._settled: dict[str, Settled] = {}

    def remember(self, reservation_id: str, *, subject: Mapping[str, Any], action: Mapping[str, Any]) -> None:
        """Record what a reservation of this delegation is for; an event has to state it again."""
        self._reserved[reservation_id] = _Reserved(subject=subject, action=action)

    def take_settled(self, reservation_id: str) -> Settled | None:
        """Return what a reservation was charged, once only; ``None`` if that is not known."""
        return self._settled.pop(reservation_id, None)

    # -- what a delegation does -------------------------------------------------------------------------------------

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve for the delegation (Cycles v0, createReservation)."""
        body = _plain(request)
        response = await self._own.create_reservation({**body, "idempotency_key": reserve_key(body["idempotency_key"])})
        reservation_id = _said(response, "reservation_id") if response.is_success else None
        if isinstance(reservation_id, str):
            self.remember(reservation_id, subject=body["subject"], action=body["action"])
        return response

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit (Cycles v0, commitReservation), or book as an event if the reservation can no longer be committed.

        An event answers as the commit would have done. For a reservation that this process has not made, the answer is
        that it has expired: the party that repeats its commit has the event beside it.
        """
        commit = _plain(request)
        response = await self._speaker(reservation_id).commit_reservation(reservation_id, commit)
        if is_out_of_reach(response) and self._is_delegations(commit):
            response = await self._book_instead(reservation_id, commit, response)
        self._note(reservation_id, commit, response)
        return response

    async def charge(self, reservation_id: str, commit: dict[str, Any], *, key: str) -> CyclesResponse | None:
        """Charge a spend that may or may not have happened, as ``commit_reservation`` does.

        Args:
            reservation_id: what it was reserved under.
            commit: the body of the commit.
            key: of the spend; its release, if there was one, was asked for under a key derived from it.

        Returns:
            The answer; ``None`` if this delegation had released the reservation itself, because nothing was spent.

        Raises:
            AuthorityError: the authority is unavailable or refuses the credentials.
        """
        response = await self._speaker(reservation_id).commit_reservation(reservation_id, commit)
        if is_out_of_reach(response):
            if await self._was_released_here(reservation_id, key):
                return None
            response = await self._book_instead(reservation_id, commit, response)
        self._note(reservation_id, commit, response)
        return response

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release (Cycles v0, releaseReservation)."""
        response = await self._speaker(reservation_id).release_reservation(reservation_id, request)
        if response.is_success:
            self._reserved.pop(reservation_id, None)
        return response

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend (Cycles v0, extendReservation)."""
        return await self._speaker(reservation_id).extend_reservation(reservation_id, request)

    # -- what is passed on unchanged --------------------------------------------------------------------------------

    async def create_event(self, request: Body) -> CyclesResponse:
        """Book an event (Cycles v0, createEvent)."""
        return await self._cycles.create_event(request)

    async def decide(self, request: Body) -> CyclesResponse:
        """Decide (Cycles v0, decide)."""
        return await self._cycles.decide(request)

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Return a reservation (Cycles v0, getReservation)."""
        return await self._cycles.get_reservation(reservation_id)

    async def list_reservations(self, **query_params: str) -> CyclesResponse:
        """Return a page of reservations (Cycles v0, listReservations); a key to look for is that of a spend."""
        if "idempotency_key" in query_params:
            query_params["idempotency_key"] = reserve_key(query_params["idempotency_key"])
        return await self._cycles.list_reservations(**query_params)

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """Return balances (Cycles v0, getBalances)."""
        return await self._cycles.get_balances(**query_params)

    async def aclose(self) -> None:
        """Do nothing: the authority belongs to the process."""

    # -- settling ---------------------------------------------------------------------------------------------------

    def _speaker(self, reservation_id: str) -> AsyncCyclesClient:
        # The client library may have any of its engines repeat records that others left in the journal.
        return self._own if reservation_id in self._reserved else self._cycles

    def _is_delegations(self, commit: Mapping[str, Any]) -> bool:
        return DELEGATION_ID in (commit.get("metadata") or {})

    async def _book_instead(
        self, reservation_id: str, commit: Mapping[str, Any], refusal: CyclesResponse
    ) -> CyclesResponse:
        reserved = self._reserved.get(reservation_id)
        if reserved is None:
            return _expired(refusal)
        event = {
            **commit,
            "subject": dict(reserved.subject),
            "action": dict(reserved.action),
            "overage_policy": "ALLOW_IF_AVAILABLE",
            "metadata": {**(commit.get("metadata") or {}), "recovered_reservation_id": reservation_id},
        }
        response = await self._cycles.create_event(event)
        if is_booked(response):
            return _as_commit(response, _said(response, "charged") or commit["actual"])
        if _said(response, "error") == "IDEMPOTENCY_MISMATCH":
            # Booked already: the key is known only here.
            return _as_commit(response, commit["actual"])
        return response

    async def _was_released_here(self, reservation_id: str, key: str) -> bool:
        """Return whether this delegation released a reservation: only its own release repeats under the same key."""
        response = await self._cycles.get_reservation(reservation_id)
        if response.status in (404, 410):
            return False
        if body_of(response, f"look at reservation {reservation_id}").get("status") != "RELEASED":
            return False
        release = {"idempotency_key": f"release-{key}", "reason": RELEASE_REASON}
        response = await self._speaker(reservation_id).release_reservation(reservation_id, release)
        code = str(_said(response, "error"))
        if response.is_success or code == "IDEMPOTENCY_MISMATCH":
            return True
        if code in GONE_CODES:
            return False
        body_of(response, f"look at the release of reservation {reservation_id}")
        return False

    def _note(self, reservation_id: str, commit: Mapping[str, Any], response: CyclesResponse) -> None:
        if is_committed(response):
            charged, actual = int(response.body["charged"]["amount"]), int(commit["actual"]["amount"])  # type: ignore[index]
            self._settled[reservation_id] = Settled(charged=charged, uncovered=max(actual - charged, 0))
            self._reserved.pop(reservation_id, None)


def is_out_of_reach(response: CyclesResponse) -> bool:
    """Return whether a reservation can no longer be charged, in the protocol's own words."""
    return response.is_client_error and (response.status == 410 or str(_said(response, "error")) in GONE_CODES)


def _said(response: CyclesResponse, name: str) -> Any:  # noqa: ANN401 - JSON
    body: object = response.body
    return body.get(name) if isinstance(body, dict) else None


def _plain(request: Body) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude_none=True) if isinstance(request, BaseModel) else dict(request)


def _expired(refusal: CyclesResponse) -> CyclesResponse:
    message = refusal.error_message or "The reservation has expired."
    body = {"error": "RESERVATION_EXPIRED", "message": message, "request_id": refusal.request_id or "-"}
    return CyclesResponse.http_error(410, message, body, refusal.headers)


def _as_commit(event: CyclesResponse, charged: Mapping[str, Any]) -> CyclesResponse:
    return CyclesResponse.success(200, {"status": "COMMITTED", "charged": dict(charged)}, event.headers)
