"""One turn: reserve its bound, call Claude, commit what was used.

What a turn does when things go wrong (spend that may have happened is never handed back):

    what happened                                   what the reservation becomes
    denied                                          nothing was held, nothing was sent
    not sent, or refused by the API (4xx, 529)      tried again while it may pass, then released
    answered, with a stop reason and usage          committed at its exact cost
    broke off, cancelled, usage missing or unpriced committed at the bound, marked ``actual_source: "bound"``
    this server failed after the request left       the same
    the process died after the request left         charged at the bound when the lease expires

The last line needs the authority's help: just before the request leaves, the turn extends its lease by a moment with
``metadata: {"on_expiry": "charge"}``. The embedded ledger heeds it; a real Cycles server proves that the lease still
lives and otherwise ignores it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from runcycles import Action, Amount, AsyncCyclesClient, CyclesProtocolError, Unit
from runcycles import Subject as CyclesSubject
from runcycles.streaming import AsyncStreamReservation

from budget_tools.cycles import Denial, body_of, denial_from, error_from
from budget_tools.delegation.claude import Claude, Failure, Reply, Ticket
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.stop import Stop
from budget_tools.errors import AuthorityError, UsageError
from budget_tools.money import Money
from budget_tools.pricing import Charge, PriceBook
from budget_tools.subjects import Subject
from budget_tools.usage import TokenUsage

logger = logging.getLogger(__name__)

LEASE_MS = 120_000
"""How long a turn's reservation lives between heartbeats."""

MAX_ATTEMPTS = 4
FIRST_BACKOFF_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
"""Longest wait between attempts; an API that asks for more is answered by stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPlan:
    """A turn that is about to be taken."""

    delegation_id: str
    number: int
    key: str
    """Idempotency key of the reservation; a new one for every attempt to reserve."""
    request: Mapping[str, Any]
    """Body of POST /v1/messages, ``max_tokens`` included."""
    bound_microcents: int

    @property
    def model(self) -> str:
        """The model that the turn asks."""
        return str(self.request["model"])


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnResult:
    """How a turn ended: with a reply, a denial, a failure, or none of them when it was stopped."""

    record: TurnRecord
    reply: Reply | None = None
    denial: Denial | None = None
    failure: Failure | None = None
    caps: Mapping[str, Any] | None = None
    """What the authority allows beside the amount (Cycles v0, Caps); ``None`` where it sets nothing."""


class _UnbilledError(Exception):
    """Carries an attempt that surely cost nothing out of its reservation, which releases it."""

    def __init__(self, failure: Failure | None) -> None:
        super().__init__("surely unbilled")
        self.failure = failure


class TurnTaker:
    """Takes turns against one authority, one API and one price book."""

    def __init__(self, *, cycles: AsyncCyclesClient, claude: Claude, prices: PriceBook) -> None:
        self._cycles = cycles
        self._claude = claude
        self._prices = prices

    async def take(self, plan: TurnPlan, subject: Subject, stop: Stop, tell: Callable[[str], None]) -> TurnResult:
        """Take one turn; its reservation is settled when this returns, unless the authority is away (then journaled).

        Args:
            plan: what to ask, and its bound.
            subject: whose budget.
            stop: heeded at every wait for Claude.
            tell: hears what the turn waits for.

        Raises:
            AuthorityError: the reserve failed for another reason than budget; nothing was sent.
        """
        record = TurnRecord(number=plan.number, model=plan.model)
        metadata: dict[str, Any] = {"delegation_id": plan.delegation_id, "turn": plan.number}
        reservation = self._cycles.stream_reservation(
            subject=CyclesSubject(**subject.in_run(plan.delegation_id).wire()),
            action=Action(
                kind="llm.completion",
                name=plan.model,
                tags=["delegation", f"delegation-{plan.delegation_id}", f"turn-{plan.number}"],
            ),
            estimate=Amount(unit=Unit.USD_MICROCENTS, amount=plan.bound_microcents),
            ttl_ms=LEASE_MS,
            metadata=metadata,
            idempotency_key=plan.key,
        )
        # Whatever cancels us, the reservation is left by the front door: see the table above.
        with anyio.CancelScope(shield=True):
            try:
                async with reservation:
                    record.reservation_id = reservation.reservation_id
                    record.decision = reservation.decision.value
                    record.reserved = Money.microcents(plan.bound_microcents)
                    outcome, record.request_id = await self._call(plan, reservation, stop, tell)
                    charged = self._settle(plan, outcome, reservation, record, metadata)
            except _UnbilledError as unbilled:
                return TurnResult(record=record, failure=unbilled.failure)
            except CyclesProtocolError as exc:
                denial = denial_from(exc)
                if denial is None:
                    raise error_from(exc, f"reserve budget for turn {plan.number}") from exc
                record.decision = "DENY"
                return TurnResult(record=record, denial=denial)
        if reservation.settlement_error is not None:
            logger.warning("Turn %s is charged but not yet settled: the journal will repeat it", plan.number)
        record.charged = Money.microcents(charged)
        caps = reservation.caps.model_dump(exclude_none=True) if reservation.caps is not None else None
        if isinstance(outcome, Reply):
            return TurnResult(record=record, reply=outcome, caps=caps)
        return TurnResult(record=record, failure=outcome, caps=caps)

    async def _call(
        self, plan: TurnPlan, reservation: AsyncStreamReservation, stop: Stop, tell: Callable[[str], None]
    ) -> tuple[Reply | Failure | None, str]:
        """Call Claude under a held reservation.

        Returns:
            What came of it, ``None`` when it was stopped after the request left; and the request's id, if known.

        Raises:
            _UnbilledError: nothing was sent, or what was sent was refused unbilled.
        """
        request = _capped(plan.request, reservation)
        await self._announce_departure(plan, reservation)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if stop.is_requested():
                raise _UnbilledError(None)
            ticket = Ticket(reservation_id=reservation.reservation_id)
            outcome = await self._attempt(ticket, request, stop)
            if outcome is None and not ticket.is_used:
                raise _UnbilledError(None)
            if not isinstance(outcome, Failure) or not outcome.is_surely_unbilled:
                return outcome, ticket.request_id
            wait_seconds = outcome.retry_after_seconds
            if wait_seconds is None:
                wait_seconds = FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)
            if not outcome.is_retryable or attempt == MAX_ATTEMPTS or wait_seconds > MAX_WAIT_SECONDS:
                raise _UnbilledError(outcome)
            tell(f"turn {plan.number}: {outcome.message} To try again in {wait_seconds:g} s")
            with stop.interruptible():
                await anyio.sleep(wait_seconds)
        raise AssertionError("the last attempt either returned or raised")

    async def _attempt(self, ticket: Ticket, request: Mapping[str, Any], stop: Stop) -> Reply | Failure | None:
        """Make one attempt; nothing that breaks after the request left may leave the reservation as an exception."""
        outcome: Reply | Failure | None = None
        try:
            with stop.interruptible():
                outcome = await self._claude.send(ticket, request)
        except asyncio.CancelledError:
            # Past every shield: the event loop itself is ending. That is a stop like any other.
            if not ticket.is_used:
                raise
            stop.request()
        except Exception:
            if not ticket.is_used:
                raise
            logger.exception("Reading the answer of a turn failed by a fault of this server")
            outcome = Failure(message="This server failed while it read the answer.", is_surely_unbilled=False)
        return outcome

    async def _announce_departure(self, plan: TurnPlan, reservation: AsyncStreamReservation) -> None:
        extension = {
            "idempotency_key": f"{plan.key}-departure",
            "extend_by_ms": 1,
            "metadata": {"on_expiry": "charge"},
        }
        response = await self._cycles.extend_reservation(reservation.reservation_id, extension)
        try:
            body_of(response, f"confirm the reservation of turn {plan.number}")
        except AuthorityError as exc:
            raise _UnbilledError(Failure(message=exc.message, is_surely_unbilled=True)) from exc

    def _settle(
        self,
        plan: TurnPlan,
        outcome: Reply | Failure | None,
        reservation: AsyncStreamReservation,
        record: TurnRecord,
        metadata: dict[str, Any],
    ) -> int:
        """Fill in what the commit will carry and return the charge, in microcents."""
        usage = _known_usage(outcome)
        charge = self._cost(plan.model, usage)
        charged = plan.bound_microcents if charge is None else charge.amount_microcents
        if charged > plan.bound_microcents:
            logger.error("Turn %s cost %s microcents, above its bound %s", plan.number, charged, plan.bound_microcents)
        record.actual_source = "bound" if charge is None else "usage"
        metadata["actual_source"] = record.actual_source
        if charge is not None and charge.price_source:
            metadata["price_source"] = charge.price_source
        if isinstance(outcome, Reply):
            record.stop_reason = outcome.stop_reason or ""
        if usage is not None:
            record.input_tokens = usage.input_tokens
            record.output_tokens = usage.output_tokens
            record.cache_read_input_tokens = usage.cache_read_input_tokens
            record.cache_creation_input_tokens = (
                usage.prompt_tokens - usage.input_tokens - usage.cache_read_input_tokens
            )
            reservation.usage.tokens_input = usage.prompt_tokens
            reservation.usage.tokens_output = usage.output_tokens
        reservation.usage.set_actual_cost(charged)
        reservation.usage.model_version = outcome.model if isinstance(outcome, Reply) else plan.model
        reservation.usage.custom = {
            "turn": plan.number,
            "request_id": record.request_id,
            "stop_reason": record.stop_reason,
            "cache_read_input_tokens": record.cache_read_input_tokens,
            "cache_creation_input_tokens": record.cache_creation_input_tokens,
            "web_search_requests": usage.web_search_requests if usage is not None else 0,
        }
        return charged

    def _cost(self, model: str, usage: TokenUsage | None) -> Charge | None:
        """Price usage; ``None`` where it is not known or has no price."""
        if usage is None:
            return None
        try:
            return self._prices.cost(model, usage)
        except UsageError as exc:
            logger.warning("Usage cannot be priced, so the bound is charged: %s", exc.message)
            return None


def _known_usage(outcome: Reply | Failure | None) -> TokenUsage | None:
    """Give usage that is final: without a stop reason the API's count is a placeholder of one token."""
    if not isinstance(outcome, Reply) or outcome.stop_reason is None:
        return None
    try:
        return TokenUsage.from_api(outcome.usage)
    except UsageError as exc:
        logger.warning("Usage cannot be read, so the bound is charged: %s", exc.message)
        return None


def _capped(request: Mapping[str, Any], reservation: AsyncStreamReservation) -> Mapping[str, Any]:
    """Obey the authority's cap on output; the bound then holds all the more."""
    caps = reservation.caps
    if caps is None or caps.max_tokens is None or caps.max_tokens >= request["max_tokens"]:
        return request
    if caps.max_tokens < 1:
        raise _UnbilledError(Failure(message="The budget's caps allow no output tokens.", is_surely_unbilled=True))
    return {**request, "max_tokens": caps.max_tokens}
