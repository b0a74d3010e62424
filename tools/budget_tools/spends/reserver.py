"""Spending of money that is reserved first, whatever happens in between: a turn's request, or a tool's call.

What a reservation becomes (spend that may have happened is never released):

    what happened                                   what the reservation becomes
    denied                                          nothing was held, nothing was done
    not done, or refused unbilled                   released
    done, and its cost is known                     committed at its exact cost
    done, and its cost is not known                 committed at the bound, marked ``actual_source: "bound"``
    the process died before it was done             released when the lease expires
    the process died after that                     settled at the next start, from what was written down; if no
                                                    process starts, the embedded ledger charges it at the lease's expiry
    the reservation was settled by another party    booked as an event (``spend_client.py``)

Two things are made durable just before the action. The *spend*, in the delegations' store, is what the next start
settles from. And the lease is extended by a moment with ``metadata: {"on_expiry": "charge"}``: the embedded ledger
heeds it; a real Cycles server proves that the lease is still live and otherwise ignores it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from runcycles import Action, Amount, Caps, CyclesProtocolError, Unit, get_cycles_context
from runcycles import Subject as CyclesSubject
from runcycles.models import ReservationCreateRequest
from runcycles.streaming import AsyncStreamReservation, StreamUsage

from budget_tools.core.errors import AuthorityError
from budget_tools.core.money import USD_MICROCENTS
from budget_tools.spends.records import LimitReachedError, Settled, Spend, SpendLog
from budget_tools.spends.responses import Denial, body_of, denial_from, denial_of, error_from
from budget_tools.spends.spend_client import SpendClient

logger = logging.getLogger(__name__)

LEASE_MS = 120_000
"""Lifetime of a reservation between heartbeats."""

HOLD_MS = 900_000
"""How long money is held without a heartbeat: longer than any single turn takes."""

_OVERAGE_POLICY = "ALLOW_IF_AVAILABLE"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpendRequest:
    """Everything that the reserve states of a spend, so that repeating it finds the same reservation."""

    key: str
    """Idempotency key of the reserve; a new one for every reservation."""
    subject: Mapping[str, Any]
    kind: str
    name: str
    tags: tuple[str, ...]
    bound: int
    turn: int
    unit: str = USD_MICROCENTS
    ttl_ms: int = LEASE_MS

    @property
    def action(self) -> Action:
        """The protocol's Action."""
        return Action(kind=self.kind, name=self.name, tags=list(self.tags))

    @property
    def estimate(self) -> Amount:
        """The protocol's estimate."""
        return Amount(unit=Unit(self.unit), amount=self.bound)

    def spend(self, reservation_id: str, *, is_hold: bool = False) -> Spend:
        """Return the spend to write down."""
        return Spend(
            reservation_id=reservation_id,
            turn=self.turn,
            key=self.key,
            subject=self.subject,
            action={"kind": self.kind, "name": self.name, "tags": list(self.tags)},
            unit=self.unit,
            bound=self.bound,
            is_hold=is_hold,
        )


class NotSpentError(Exception):
    """An exit from a lease if surely nothing was spent, so that its reservation is released."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitDenial:
    """A denial by the limit of the delegation, or of one above it; nothing is held for the spend."""

    left_microcents: int


@dataclass(kw_only=True, slots=True)
class Lease:
    """A live reservation, and what is known of the spend under it."""

    order: SpendRequest
    _reservation: AsyncStreamReservation
    _cycles: SpendClient
    _log: SpendLog
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the commit reports besides the amount; it must be complete when the lease is left."""
    has_departed: bool = False

    @property
    def reservation_id(self) -> str:
        """The authority's id of the reservation."""
        return self._reservation.reservation_id

    @property
    def decision(self) -> str:
        """``ALLOW`` or ``ALLOW_WITH_CAPS``."""
        return self._reservation.decision.value

    @property
    def caps(self) -> Caps | None:
        """Caps that the authority set besides the amount (Cycles v0, Caps)."""
        return self._reservation.caps

    @property
    def remaining(self) -> int | None:
        """What remained of the tightest budget once this was reserved, if the authority said."""
        context = get_cycles_context()
        balances = (context.balances if context is not None else None) or ()
        amounts = [each.remaining.amount for each in balances if each.remaining.unit == self.order.unit]
        return min(amounts, default=None)

    @property
    def usage(self) -> StreamUsage:
        """Metrics that the commit reports."""
        return self._reservation.usage

    async def mark_in_flight(self) -> None:
        """Write down, durably, that the money may be spent from now on.

        Raises:
            AuthorityError: the reservation is no longer live; nothing may be done under it.
            LimitReachedError: the delegation's own limits do not cover it.
        """
        await self._log.mark_in_flight(self.order.spend(self.reservation_id))
        extension = {
            "idempotency_key": f"departure-{self.order.key}",
            "extend_by_ms": 1,
            "metadata": {"on_expiry": "charge"},
        }
        try:
            response = await self._cycles.extend_reservation(self.reservation_id, extension)
            if response.is_transport_error or response.is_server_error:
                # Its answer may have been lost on the way: the same key returns it again.
                response = await self._cycles.extend_reservation(self.reservation_id, extension)
            body_of(response, f"confirm the reservation of {self.order.name}")
        except BaseException:
            self._log.clear(self.reservation_id)
            raise
        self.has_departed = True

    def settle(self, amount: int) -> None:
        """Set the cost, before the lease is left."""
        self._reservation.usage.set_actual_cost(amount)


class Reserver:
    """Spender on behalf of one delegation, through that delegation's ``SpendClient``."""

    def __init__(self, *, cycles: SpendClient, log: SpendLog) -> None:
        self._cycles = cycles
        self._log = log

    async def spend(
        self, order: SpendRequest, deed: Callable[[Lease], Awaitable[None]]
    ) -> Denial | LimitDenial | Settled | None:
        """Reserve, run the action, and settle; settled when this returns, unless the authority is unavailable.

        Args:
            order: what is reserved.
            deed: the action: marks the spend in flight, performs it and settles the lease, or raises ``NotSpentError``
                if nothing was spent. It may not raise anything else once in flight; cancellation cannot reach it.

        Returns:
            A denial, with nothing done; else what was charged for it, ``None`` if the authority has not said yet.

        Raises:
            NotSpentError: as ``deed`` raised it.
            AuthorityError: the reserve failed for another reason than budget; nothing was done.
        """
        metadata: dict[str, Any] = {}
        reservation = self._cycles.stream_reservation(
            subject=CyclesSubject(**order.subject),
            action=order.action,
            estimate=order.estimate,
            ttl_ms=order.ttl_ms,
            overage_policy=_OVERAGE_POLICY,
            metadata=metadata,
            idempotency_key=order.key,
        )
        with anyio.CancelScope(shield=True):
            try:
                async with reservation:
                    lease = Lease(
                        order=order, _reservation=reservation, _cycles=self._cycles, _log=self._log, metadata=metadata
                    )
                    try:
                        await deed(lease)
                    finally:
                        await _stop(reservation._heartbeat_task)  # noqa: SLF001 - its owner cancels it only once
            except NotSpentError:
                self._log.clear(reservation.reservation_id)
                raise
            except LimitReachedError as exc:
                return LimitDenial(left_microcents=exc.left_microcents)
            except CyclesProtocolError as exc:
                denial = denial_from(exc)
                if denial is None:
                    raise error_from(exc, f"reserve budget for {order.name}") from exc
                return denial
        settled = self._cycles.take_settled(reservation.reservation_id)
        if settled is None:
            logger.warning("Reservation %s is charged but not yet settled: the journal will repeat it", order.key)
        self._log.clear(reservation.reservation_id)
        return settled

    async def hold(self, order: SpendRequest) -> str | Denial | LimitDenial:
        """Hold money without spending it; ``spend`` with the same order finds the same reservation again.

        Returns:
            The reservation's id, or the denial.

        Raises:
            AuthorityError: the authority did not answer, or refused for another reason than a denial.
        """
        request = ReservationCreateRequest(
            idempotency_key=order.key,
            subject=CyclesSubject(**order.subject),
            action=order.action,
            estimate=order.estimate,
            ttl_ms=order.ttl_ms,
            overage_policy=_OVERAGE_POLICY,
        )
        with anyio.CancelScope(shield=True):
            response = await self._cycles.create_reservation(request)
            if response.is_transport_error or response.is_server_error:
                # The money may be held already, by a reservation of unknown id: the same key finds it.
                response = await self._cycles.create_reservation(request)
            denial = denial_of(response)
            if denial is not None:
                return denial
            reservation_id = str(body_of(response, f"hold budget for {order.name}")["reservation_id"])
            try:
                await self._log.mark_in_flight(order.spend(reservation_id, is_hold=True))
            except LimitReachedError as exc:
                await self.release(reservation_id, order.key)
                return LimitDenial(left_microcents=exc.left_microcents)
        return reservation_id

    async def release(self, reservation_id: str, key: str) -> None:
        """Release a hold; if the authority is unavailable, its lease expires by itself."""
        release = {"idempotency_key": f"release-{key}", "reason": "not needed any more"}
        with anyio.CancelScope(shield=True):
            response = await self._cycles.release_reservation(reservation_id, release)
            try:
                body_of(response, f"release reservation {reservation_id}")
            except AuthorityError as exc:
                logger.warning("A hold was not given back; its lease runs out: %s", exc.message)
            self._log.clear(reservation_id)


_PATIENCE_SECONDS = 0.1


async def _stop(heartbeat: asyncio.Task[None] | None) -> None:
    """Stop a heartbeat before its lease is left.

    Up to Python 3.11 ``asyncio.wait_for`` loses a cancellation that arrives together with the answer it waits for. The
    client library cancels once and then waits: if the extension was being answered, it would wait for the whole of
    the lease, and those after it.
    """
    while heartbeat is not None and not heartbeat.done():
        heartbeat.cancel()
        await asyncio.wait([heartbeat], timeout=_PATIENCE_SECONDS)
