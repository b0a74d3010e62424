"""One turn: reserve its bound, call Claude, write down what came of it, commit what was used.

What its reservation becomes when things go wrong stands in ``spending.py``; this module judges which of those it was:

    what happened                                     counts as
    refused by the API (4xx but 408 and 499, 529)     not spent; tried again while it may pass
    could not be built, or the API not reached        not spent
    answered, with a stop reason and usage            known
    broke off, cancelled, usage missing or unpriced   not known
    this server failed after the request left         not known
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from budget_tools.claude.client import Claude, Failure, Ticket
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import BudgetError, UsageError
from budget_tools.core.money import Money
from budget_tools.delegation.caps import NO_CAPS, Allowance
from budget_tools.delegation.conversation import said
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message
from budget_tools.pricing.book import Charge, PriceBook
from budget_tools.pricing.usage import TokenUsage
from budget_tools.spends.records import Settled
from budget_tools.spends.reserver import Lease, LimitDenial, NotSpentError, Reserver, SpendRequest
from budget_tools.spends.responses import Denial

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
FIRST_BACKOFF_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
"""Longest wait between attempts; an API that asks for more is answered by stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A request as it leaves, under the caps of its reservation."""

    request: Mapping[str, Any]
    """Body of POST /v1/messages, ``max_tokens`` included."""
    rebuilt: Sequence[Message] = ()
    """The conversation so far, where it was told anew for another model."""
    notices: Sequence[Message] = ()
    """What the sub-agent is told in this turn, beside the conversation so far."""
    is_last: bool = False
    """Whether the sub-agent was told that this is its last turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPlan:
    """A turn that is about to be taken."""

    order: SpendRequest
    prepare: Callable[[Allowance], Prepared | Failure]
    """Builds the request once the caps are known; a failure where they allow none."""
    warnings: Sequence[str] = ()
    """What the caller is told beside the answer, because of what led to this turn."""

    @property
    def number(self) -> int:
        """Counts the turns of the delegation."""
        return self.order.turn

    @property
    def model(self) -> str:
        """The model that the turn asks."""
        return self.order.name


@dataclass(kw_only=True, slots=True)
class TurnResult:
    """How a turn ended: with a reply, a denial, a failure, or none of them when it was stopped."""

    record: TurnRecord
    reply: Reply | None = None
    denial: Denial | LimitDenial | None = None
    failure: Failure | None = None
    allowance: Allowance = NO_CAPS
    prepared: Prepared = field(default_factory=lambda: Prepared(request={}))
    messages: Sequence[Message] = ()
    """What it adds to the conversation."""
    remaining: int | None = None
    """What remains of the tightest budget after it, unless others spent meanwhile; ``None`` where it is not known."""


class TurnTaker:
    """Takes the turns of one delegation.

    Args:
        claude: the gated client.
        prices: the prices in force.
        spender: reserves and settles.
        log: is written before anything matters.
        stop: heeded at every wait for Claude.
        tell: hears what the turn waits for.
    """

    def __init__(
        self,
        *,
        claude: Claude,
        prices: PriceBook,
        spender: Reserver,
        log: DelegationLog,
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        self._claude = claude
        self._prices = prices
        self._spender = spender
        self._log = log
        self._stop = stop
        self._tell = tell

    async def take(self, plan: TurnPlan) -> TurnResult:
        """Take one turn; its reservation is settled when this returns, unless the authority is away (then journaled).

        Raises:
            AuthorityError: the reserve failed for another reason than budget; nothing was sent.
        """
        result = TurnResult(record=TurnRecord(number=plan.number, model=plan.model, warnings=list(plan.warnings)))

        async def deed(lease: Lease) -> None:
            await self._under(lease, plan, result)

        ended: Denial | LimitDenial | Settled | None = None
        try:
            ended = await self._spender.spend(plan.order, deed)
        except NotSpentError:
            await self._log.note_turn(result.record)
        if isinstance(ended, Settled):
            await self._note_settled(result, ended)
        elif ended is not None:
            result.denial = ended
            result.record.decision = "DENY"
        return result

    async def _note_settled(self, result: TurnResult, settled: Settled) -> None:
        """Correct what was written down before the commit, if the budget was charged less than the turn cost."""
        record = result.record
        if record.charged is None or not settled.uncovered:
            return
        record.charged = Money.microcents(settled.charged)
        record.uncovered = Money.microcents(settled.uncovered)
        result.remaining = None
        try:
            await self._log.note_turn(record)
        except BudgetError as exc:
            logger.error("Turn %s was not written down: %s", record.number, exc.message)  # noqa: TRY400 - one sentence

    async def _under(self, lease: Lease, plan: TurnPlan, result: TurnResult) -> None:
        """Call Claude under a held reservation, and settle it."""
        record = result.record
        record.reservation_id = lease.reservation_id
        record.decision = lease.decision
        record.reserved = Money.microcents(plan.order.bound)
        result.allowance = Allowance.of(lease.caps)
        prepared = plan.prepare(result.allowance)
        if isinstance(prepared, Failure):
            result.failure = prepared
            raise NotSpentError
        result.prepared = prepared
        await lease.mark_in_flight()
        outcome, record.request_id = await self._call(prepared.request, lease, result)
        charged = self._settle(plan, outcome, lease, record)
        record.charged = Money.microcents(charged)
        if lease.remaining is not None:
            result.remaining = lease.remaining + plan.order.bound - charged
        if isinstance(outcome, Reply):
            result.reply = outcome
        else:
            result.failure = outcome
        try:
            await self._note(result, prepared, lease.reservation_id, charged)
        except BudgetError as exc:
            # The commit, and an answer that was paid for, must not be lost over it.
            logger.error("Turn %s was not written down: %s", plan.number, exc.message)  # noqa: TRY400 - one sentence

    async def _note(self, result: TurnResult, prepared: Prepared, reservation_id: str, charged: int) -> None:
        """Write down what came of it before it is committed: a crash in between settles it exactly."""
        reply = result.reply
        words = None if reply is None else said(reply)
        result.messages = [*prepared.notices, words] if words is not None else []
        await self._log.note_turn(
            result.record,
            messages=[*prepared.rebuilt, *result.messages] if result.messages else (),
            text=reply.text if reply is not None else "",
            charged_reservation_id=reservation_id,
            charged=charged,
        )

    async def _call(
        self, request: Mapping[str, Any], lease: Lease, result: TurnResult
    ) -> tuple[Reply | Failure | None, str]:
        """Call Claude as often as it is surely not billed and may pass.

        Returns:
            What came of it, ``None`` when it was stopped after the request left; and the request's id, if known.

        Raises:
            NotSpentError: nothing was sent, or what was sent was refused unbilled.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if self._stop.is_requested():
                raise NotSpentError
            ticket = Ticket(reservation_id=lease.reservation_id)
            outcome = await self._attempt(ticket, request)
            if outcome is None and not ticket.is_used:
                raise NotSpentError
            if not isinstance(outcome, Failure) or not outcome.is_surely_unbilled:
                return outcome, ticket.request_id
            wait_seconds = outcome.retry_after_seconds
            if wait_seconds is None:
                wait_seconds = FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)
            if not outcome.is_retryable or attempt == MAX_ATTEMPTS or wait_seconds > MAX_WAIT_SECONDS:
                result.failure = outcome
                raise NotSpentError
            self._tell(f"turn {result.record.number}: {outcome.message} To try again in {wait_seconds:g} s")
            with self._stop.interruptible():
                await anyio.sleep(wait_seconds)
        raise AssertionError("the last attempt either returned or raised")

    async def _attempt(self, ticket: Ticket, request: Mapping[str, Any]) -> Reply | Failure | None:
        """Make one attempt; nothing that breaks after the request left may leave the reservation as an exception."""
        outcome: Reply | Failure | None = None
        try:
            with self._stop.interruptible():
                outcome = await self._claude.send(ticket, request)
        except asyncio.CancelledError:
            # Past every shield: the event loop itself is ending. That is a stop like any other.
            if not ticket.is_used:
                raise
            self._stop.request()
        except Exception:
            if not ticket.is_used:
                raise
            logger.exception("Reading the answer of a turn failed by a fault of this server")
            outcome = Failure(message="This server failed while it read the answer.", is_surely_unbilled=False)
        return outcome

    def _settle(self, plan: TurnPlan, outcome: Reply | Failure | None, lease: Lease, record: TurnRecord) -> int:
        """Fill in what the commit will carry and return the charge, in microcents."""
        usage = _known_usage(outcome)
        charge = self._cost(plan.model, usage)
        charged = plan.order.bound if charge is None else charge.amount_microcents
        if charged > plan.order.bound:
            logger.error("Turn %s cost %s microcents, above its bound %s", plan.number, charged, plan.order.bound)
        record.actual_source = "bound" if charge is None else "usage"
        lease.metadata |= {
            "delegation_id": self._log.delegation_id,
            "turn": plan.number,
            "actual_source": record.actual_source,
        }
        if charge is not None and charge.price_source:
            lease.metadata["price_source"] = charge.price_source
        if isinstance(outcome, Reply):
            record.stop_reason = outcome.stop_reason or ""
        if usage is not None:
            record.input_tokens = usage.input_tokens
            record.output_tokens = usage.output_tokens
            record.cache_read_input_tokens = usage.cache_read_input_tokens
            record.cache_creation_input_tokens = (
                usage.prompt_tokens - usage.input_tokens - usage.cache_read_input_tokens
            )
            lease.usage.tokens_input = usage.prompt_tokens
            lease.usage.tokens_output = usage.output_tokens
        lease.settle(charged)
        lease.usage.model_version = outcome.model if isinstance(outcome, Reply) else plan.model
        lease.usage.custom = {
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
        # Whatever is written to the cache, our requests ask for five minutes of it.
        return TokenUsage.from_api(outcome.usage, unsplit_cache_ttl="5m")
    except UsageError as exc:
        logger.warning("Usage cannot be read, so the bound is charged: %s", exc.message)
        return None
