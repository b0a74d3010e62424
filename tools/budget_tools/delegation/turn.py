"""One turn: reserve its bound, call Claude, write down the result, commit what was used.

``spends/reserver.py`` decides what its reservation becomes when things go wrong; ``pricing/evidence.py`` decides what a
turn cost: exactly, at its bound, or nothing. An attempt that cost nothing is repeated while it may succeed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from budget_tools.claude.client import Claude, Ticket
from budget_tools.claude.failures import Failure
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import BudgetError
from budget_tools.core.money import Money
from budget_tools.delegation.caps import NO_CAPS, Allowance
from budget_tools.delegation.conversation import said
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message
from budget_tools.delegation.turn_cost import verdict_on
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.evidence import Verdict
from budget_tools.pricing.served_model import names_same_model
from budget_tools.pricing.usage import ReportedUsage
from budget_tools.spends.records import Settled
from budget_tools.spends.reserver import Lease, LimitDenial, NotSpentError, Reserver, SpendRequest
from budget_tools.spends.responses import Denial

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
FIRST_BACKOFF_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
"""Longest wait between attempts; if the API asks for more, the turn stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A request as it leaves, under the caps of its reservation."""

    request: Mapping[str, Any]
    """Body of POST /v1/messages, ``max_tokens`` included."""
    rebuilt: Sequence[Message] = ()
    """The conversation so far, if it was rebuilt for another model."""
    notices: Sequence[Message] = ()
    """What the sub-agent is told in this turn, besides the conversation so far."""
    is_last: bool = False
    """Whether the sub-agent was told that this is its last turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPlan:
    """A turn that is about to be taken."""

    order: SpendRequest
    prepare: Callable[[Allowance], Prepared | Failure]
    """Builds the request once the caps are known; returns a failure if they allow none."""
    warnings: Sequence[str] = ()
    """What the caller is told besides the answer, because of what led to this turn."""

    @property
    def number(self) -> int:
        """Number of the turn within the delegation."""
        return self.order.turn

    @property
    def model(self) -> str:
        """The model that the turn asks."""
        return self.order.name


@dataclass(kw_only=True, slots=True)
class TurnResult:
    """The end of a turn: a reply, a denial, a failure, or none of them if it was stopped."""

    record: TurnRecord
    reply: Reply | None = None
    denial: Denial | LimitDenial | None = None
    failure: Failure | None = None
    allowance: Allowance = NO_CAPS
    prepared: Prepared = field(default_factory=lambda: Prepared(request={}))
    messages: Sequence[Message] = ()
    """Messages that it adds to the conversation."""
    remaining: int | None = None
    """What remains of the tightest budget after it, unless others spent meanwhile; ``None`` if it is not known."""


class TurnTaker:
    """Taker of the turns of one delegation.

    Args:
        claude: the gated client.
        prices: the prices in force.
        spender: reserves and settles.
        log: is written before anything takes effect.
        stop: obeyed at every wait for Claude.
        tell: called with what the turn waits for.
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
        """Take one turn; its reservation is settled on return, unless the authority is unavailable (then journaled).

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
        """Call Claude under a live reservation, and settle it."""
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
        outcome, verdict = await self._call(plan, prepared.request, lease, result)
        self._describe(record, outcome, verdict)
        if verdict.basis == "nothing":
            result.reply = outcome if isinstance(outcome, Reply) else None
            raise NotSpentError
        charged = self._settle(plan, outcome, verdict, lease, record)
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
        """Write the result down before it is committed: a crash in between settles it exactly."""
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
        self, plan: TurnPlan, request: Mapping[str, Any], lease: Lease, result: TurnResult
    ) -> tuple[Reply | Failure | None, Verdict]:
        """Call Claude, and again as long as the attempt was surely not billed and may succeed.

        Returns:
            The result, ``None`` if it was stopped after the request left; and what it cost.

        Raises:
            NotSpentError: nothing was sent, or the request was refused unbilled.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if self._stop.is_requested():
                raise NotSpentError
            ticket = Ticket(reservation_id=lease.reservation_id)
            outcome = await self._attempt(ticket, request)
            if outcome is None and not ticket.may_have_left:
                raise NotSpentError
            result.record.request_id = ticket.request_id
            verdict = self._verdict_on(outcome, request, plan)
            if not isinstance(outcome, Failure) or verdict.basis != "nothing":
                return outcome, verdict
            result.record.charged_because = verdict.reason
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

    def _verdict_on(self, outcome: Reply | Failure | None, request: Mapping[str, Any], plan: TurnPlan) -> Verdict:
        """Return what an attempt cost; a fault of ours in judging it only makes the cost unknown."""
        try:
            return verdict_on(outcome, request, asked_model=plan.model, prices=self._prices)
        except Exception:
            logger.exception("Judging what a turn cost failed by a fault of this server")
            return Verdict(basis="unknown", reason="This server failed while it judged what the answer cost.")

    async def _attempt(self, ticket: Ticket, request: Mapping[str, Any]) -> Reply | Failure | None:
        """Make one attempt; no error after the request left may leave the reservation as an exception."""
        outcome: Reply | Failure | None = None
        try:
            with self._stop.interruptible():
                outcome = await self._claude.send(ticket, request)
        except asyncio.CancelledError:
            # Past every shield: the event loop itself is ending. That is a stop like any other.
            if not ticket.may_have_left:
                raise
            self._stop.request()
        except Exception:
            if not ticket.is_used:
                raise
            logger.exception("Reading the answer of a turn failed by a fault of this server")
            outcome = Failure(message="This server failed while it read the answer.", sending="broken")
        return outcome

    def _describe(self, record: TurnRecord, outcome: Reply | Failure | None, verdict: Verdict) -> None:
        """Fill in how the turn ended, and the sentences on its cost."""
        if isinstance(outcome, Reply):
            record.stop_reason = outcome.stop_reason or ""
            is_another = bool(outcome.model) and not names_same_model(outcome.model, record.model)
            record.served_model = outcome.model if is_another else ""
        record.charged_because = verdict.reason
        record.warnings = [*record.warnings, *verdict.warnings]
        if isinstance(outcome, Reply) and outcome.problem:
            record.warnings.append(f"turn {record.number}: {outcome.problem.rstrip('.')}")

    def _settle(
        self, plan: TurnPlan, outcome: Reply | Failure | None, verdict: Verdict, lease: Lease, record: TurnRecord
    ) -> int:
        """Fill in what the commit will carry and return the charge, in microcents."""
        charged = verdict.charge_microcents(plan.order.bound)
        if charged > plan.order.bound:
            logger.error("Turn %s cost %s microcents, above its bound %s", plan.number, charged, plan.order.bound)
        is_bound = verdict.basis == "unknown" and charged == plan.order.bound
        record.actual_source = "bound" if is_bound else "usage"
        if verdict.basis == "unknown":
            if outcome is not None:  # a stop is somebody's wish, and no fault to log
                logger.warning("Turn %s is charged at its bound: %s", plan.number, verdict.reason)
            how = f"was charged {Money.microcents(charged)}, its worst case"
            if charged > plan.order.bound:
                how = "cost more than its worst case, by the highest counts that were reported"
            because = f"turn {record.number} {how}: {verdict.reason.rstrip('.')}"
            record.warnings = [*record.warnings, because]
        lease.metadata |= {
            "delegation_id": self._log.delegation_id,
            "turn": plan.number,
            "actual_source": record.actual_source,
        }
        if verdict.price_source:
            lease.metadata["price_source"] = verdict.price_source
        if verdict.reason:
            lease.metadata["charged_because"] = verdict.reason
        _note_usage(verdict.reported, lease, record)
        lease.settle(charged)
        served = outcome.model if isinstance(outcome, Reply) else ""
        lease.usage.model_version = served or plan.model
        return charged


def _note_usage(reported: ReportedUsage | None, lease: Lease, record: TurnRecord) -> None:
    """Fill in the counts of the usage that was believed."""
    usages = [entry.usage for entry in reported.entries] if reported is not None else []
    if usages:
        record.input_tokens = sum(usage.input_tokens for usage in usages)
        record.output_tokens = sum(usage.output_tokens for usage in usages)
        record.cache_read_input_tokens = sum(usage.cache_read_input_tokens for usage in usages)
        prompt_tokens = sum(usage.prompt_tokens for usage in usages)
        record.cache_creation_input_tokens = prompt_tokens - record.input_tokens - record.cache_read_input_tokens
        lease.usage.tokens_input = prompt_tokens
        lease.usage.tokens_output = record.output_tokens
    lease.usage.custom = {
        "turn": record.number,
        "request_id": record.request_id,
        "stop_reason": record.stop_reason,
        "cache_read_input_tokens": record.cache_read_input_tokens,
        "cache_creation_input_tokens": record.cache_creation_input_tokens,
        "web_search_requests": sum(usage.web_search_requests for usage in usages),
    }
