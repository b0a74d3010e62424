"""The choice of the next turn, so that it can be paid for, and the taking of it.

While there are tools, and so may be another turn after it:

    1. an *ordinary* turn, with the money for a last answer held beside it: with the longest answer that was asked for,
       else the longest that fits, on the model in use, else on the next fallback;
    2. else a *landing*: the sub-agent is told why, tools are withheld, and the held or remaining money is spent on its
       best final answer.

Without tools no turn follows an answer: an ordinary turn may cost all the money there is. Others may take the remaining
money between looking and reserving, so each candidate is fitted again a bounded number of times.

A model that cannot answer now (overloaded, limited, gone) is passed over like one that does not fit, as long as there
is a fallback: what was reserved for it is released, and it is not asked again until the delegation is resumed.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from budget_tools.claude.client import Failure
from budget_tools.core.errors import AuthorityError
from budget_tools.core.ids import time_ordered_id
from budget_tools.core.money import Money, format_usd
from budget_tools.delegation.candidates import Candidates, TurnCandidate
from budget_tools.delegation.caps import Allowance
from budget_tools.delegation.conversation import Conversation, notice
from budget_tools.delegation.delegation_budget import FINAL_DENIALS, DelegationBudget
from budget_tools.delegation.landing import LAST_STEP, Landing
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.policy import SPARE_PARTS, Fit
from budget_tools.delegation.prompt_bound import PromptBound, PromptBounder
from budget_tools.delegation.records import Task
from budget_tools.delegation.request import RequestBuilder
from budget_tools.delegation.result_warnings import ResultWarnings
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message, Outcome
from budget_tools.delegation.turn import Prepared, TurnPlan, TurnResult, TurnTaker
from budget_tools.pricing.book import PriceBook
from budget_tools.spends.reserver import HOLD_MS, LEASE_MS, LimitDenial, SpendRequest
from budget_tools.spends.responses import Denial

logger = logging.getLogger(__name__)

MAX_FITS = 4
"""How often a turn is fitted again while others take the remaining money in between."""

CROWDED_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Waits for money that others hold, before a turn is shortened to what is left, or becomes the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnTaken:
    """A turn that was taken."""

    result: TurnResult
    conversation: Conversation
    """The conversation that continues, without the turn's own messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnDenied:
    """A denial that a smaller turn cannot avoid."""

    denial: Denial

    @property
    def outcome(self) -> Outcome:
        """The end of the delegation, if there is no last turn."""
        return Outcome(status="budget_exhausted", hint=f"{self.denial.reason_code}: {self.denial.hint}")

    @property
    def landing(self) -> Landing:
        """The last turn that the denial allows, from the held money."""
        return Landing(
            status="budget_exhausted",
            hint=f"{self.denial.reason_code}: {self.denial.hint}",
            reason="the budget allows no further turns",
        )

    @property
    def is_final(self) -> bool:
        """Whether even the held money may not be spent."""
        return self.denial.reason_code in FINAL_DENIALS


class TurnChooser:
    """Chooser of the turns of one delegation, which also takes them."""

    def __init__(
        self,
        task: Task,
        *,
        requests: RequestBuilder,
        bounder: PromptBounder,
        prices: PriceBook,
        turns: TurnTaker,
        budget: DelegationBudget,
        log: DelegationLog,
        stop: Stop,
        tell: Callable[[str], None],
        warnings: ResultWarnings,
    ) -> None:
        self._task = task
        self._subject = task.subject.in_run(log.delegation_id).wire()
        self._requests = requests
        self._bounder = bounder
        self._turns = turns
        self._budget = budget
        self._log = log
        self._stop = stop
        self._tell = tell
        self._warnings = warnings
        self.candidates = Candidates(task, prices=prices, log=log, grows=requests.has_tools)
        self.steps_left: int | None = None
        """Turns that the caps still allow; ``None`` if they set no limit."""

    async def ordinary(self, conversation: Conversation, warning: str) -> TurnTaken | TurnDenied | None:
        """Take a turn after which there may be another; ``None`` if no candidate can be paid for.

        Args:
            conversation: the current conversation.
            warning: what the sub-agent is told, if anything.

        Raises:
            AuthorityError: the authority is unavailable; nothing was sent.
        """
        notices = (notice(warning),) if warning else ()
        self.candidates.forget_uncovered()
        async for _ in self._patiently():
            for candidate in self.candidates.of(conversation):
                taken = await self._ordinary(candidate, notices)
                if self._passes_over(taken, candidate):
                    continue
                if taken is not None or self._stop.is_requested():
                    return taken
        return None

    async def last(self, conversation: Conversation, landing: Landing) -> TurnTaken | TurnDenied | None:
        """Take the last turn; ``None`` if not even that can be paid for.

        Raises:
            AuthorityError: the authority is unavailable; nothing was sent.
        """
        async for _ in self._patiently():
            for candidate in self.candidates.of(conversation):
                for each in candidate.shortened():
                    taken = await self._last(each, landing.told())
                    if self._passes_over(taken, candidate):
                        break
                    if taken is not None or self._stop.is_requested():
                        return taken
        return None

    def _passes_over(self, taken: TurnTaken | TurnDenied | None, candidate: TurnCandidate) -> bool:
        if not isinstance(taken, TurnTaken) or taken.result.record.charged is not None:
            return False
        failure = taken.result.failure
        if failure is None or self._stop.is_requested() or not self.candidates.pass_over(candidate.model, failure):
            return False
        self._warnings.add(f"{candidate.model} was passed over for the next of fallback_models. {failure.message}")
        return True

    def note_step(self, allowance: Allowance) -> None:
        """Count a turn that was taken against the caps of its reservation."""
        steps = [each for each in (self.steps_left, allowance.max_steps) if each is not None]
        self.steps_left = min(steps) - 1 if steps else None

    async def _patiently(self) -> AsyncIterator[None]:
        """Yield once, and again for a while as long as others hold the missing money."""
        yield
        for pause_seconds in CROWDED_PAUSES_SECONDS:
            if not await self._budget.may_grow():
                return
            self._tell(f"turn {self._next_number}: waiting for budget that others hold")
            with self._stop.interruptible():
                # Very uneven waits, so that one of several that wait for each other gives way first.
                await anyio.sleep(pause_seconds * (0.25 + 1.75 * random.random()))  # noqa: S311 - not a secret
            yield

    # -- an ordinary turn -------------------------------------------------------------------------------------------

    async def _ordinary(self, candidate: TurnCandidate, notices: Sequence[Message]) -> TurnTaken | TurnDenied | None:
        prompt = await self._bounder.bound(candidate, notices)
        input_tokens = prompt.tokens
        limit = await self._budget.own_limit()
        if self._requests.has_tools:
            # With a hold beside it, a turn too long for the budget would displace one that fits.
            if self._budget.remaining is None:
                await self._budget.look()
            limit = self._budget.within_remaining(limit)
        for _ in range(MAX_FITS):
            if self._stop.is_requested():
                return None
            fit = self._fit(candidate, input_tokens, limit)
            if fit is None:
                self.candidates.note_uncovered(candidate, input_tokens)
                return None
            if fit.max_output_tokens < self._task.max_output_tokens:
                self.candidates.note_uncovered(candidate, input_tokens)
            denial: Denial | LimitDenial | None = None
            if self._requests.has_tools:
                denial = await self._hold_landing(candidate, input_tokens, fit.max_output_tokens)
            if denial is None:
                order = self._order(candidate.model, fit.bound_microcents)
                prepare = self._preparing(candidate, fit.max_output_tokens, notices)
                result = await self._take(candidate, prompt, order, prepare)
                if result.denial is None:
                    return TurnTaken(result=result, conversation=candidate.conversation)
                denial = result.denial
            if isinstance(denial, Denial) and denial.reason_code != "BUDGET_EXCEEDED":
                await self._budget.look()
                return TurnDenied(denial=denial)
            limit = await self._budget.limit_after(denial, limit)
            if limit is None:
                assert isinstance(denial, Denial), "a delegation's own limit is always known"
                return TurnDenied(denial=denial)
        return None

    def _fit(self, candidate: TurnCandidate, input_tokens: int, limit: int | None) -> Fit | None:
        wanted = self._task.max_output_tokens
        if limit is None or not self._requests.has_tools:
            return candidate.fitter.fit(
                input_tokens=input_tokens, wanted_output_tokens=wanted, allowed_microcents=limit
            )
        allowed = limit

        def is_paid(bound: int, landing: int) -> bool:
            held = self._budget.held
            if self._budget.covers(self._order(candidate.model, landing)):
                return bound <= allowed
            # The current hold is released once the new one exists, and before the turn.
            given_back = 0 if held is None else held.bound
            return landing <= allowed and bound + landing <= allowed + given_back

        return candidate.fitter.fit_with_landing(
            input_tokens=input_tokens, wanted_output_tokens=wanted, is_paid=is_paid
        )

    async def _hold_landing(
        self, candidate: TurnCandidate, input_tokens: int, output_tokens: int
    ) -> Denial | LimitDenial | None:
        """Hold the money for a last answer after the next turn."""
        needed = self._landing_request(candidate, input_tokens, output_tokens)
        if self._budget.covers(needed):
            return None
        left = self._budget.remaining.amount if self._budget.remaining is not None else 0
        spare = min(needed.bound, max(left, 0) // SPARE_PARTS, max(left - needed.bound, 0))
        return await self._budget.hold(replace(needed, bound=needed.bound + spare))

    def _landing_request(self, candidate: TurnCandidate, input_tokens: int, output_tokens: int) -> SpendRequest:
        bound = candidate.fitter.kept_back(
            input_tokens=input_tokens, output_tokens=output_tokens, wanted_output_tokens=self._task.max_output_tokens
        )
        return self._order(candidate.model, bound, tag="landing", ttl_ms=HOLD_MS)

    # -- the last turn ----------------------------------------------------------------------------------------------

    async def _last(self, candidate: TurnCandidate, notices: Sequence[Message]) -> TurnTaken | TurnDenied | None:
        """Take the last turn: from the remaining money if that is more, else from what was held for it."""
        prompt = await self._bounder.bound(candidate, notices)
        input_tokens = prompt.tokens
        limit = self._budget.within_remaining(await self._budget.own_limit())
        for _ in range(MAX_FITS):
            if self._stop.is_requested():
                return None
            wanted = self._task.max_output_tokens
            fit = candidate.fitter.fit(input_tokens=input_tokens, wanted_output_tokens=wanted, allowed_microcents=limit)
            held = self._held_fit(candidate, input_tokens)
            if held is not None and (fit is None or fit.max_output_tokens <= held.max_output_tokens):
                result = await self._take_held(candidate, prompt, held, notices)
            elif fit is not None:
                order = self._order(candidate.model, fit.bound_microcents)
                prepare = self._preparing(candidate, fit.max_output_tokens, notices, is_last=True)
                result = await self._take(candidate, prompt, order, prepare)
            else:
                return None
            if result is None:
                continue
            if result.denial is None:
                return TurnTaken(result=result, conversation=candidate.conversation)
            if isinstance(result.denial, Denial) and result.denial.reason_code in FINAL_DENIALS:
                return TurnDenied(denial=result.denial)
            if isinstance(result.denial, Denial) and result.denial.reason_code != "BUDGET_EXCEEDED":
                limit = 0  # even a small new reservation is denied: the held money is left
            else:
                limit = await self._budget.limit_after(result.denial, limit) or 0
        return None

    def _held_fit(self, candidate: TurnCandidate, input_tokens: int) -> Fit | None:
        """Return the fit of the last turn within what is held for it."""
        order = self._budget.held
        if order is None or order.name != candidate.model:
            return None
        wanted = self._task.max_output_tokens
        fit = candidate.fitter.fit(
            input_tokens=input_tokens, wanted_output_tokens=wanted, allowed_microcents=order.bound
        )
        return None if fit is None else replace(fit, bound_microcents=order.bound)

    async def _take_held(
        self, candidate: TurnCandidate, prompt: PromptBound, fit: Fit, notices: Sequence[Message]
    ) -> TurnResult | None:
        """Take the last turn from the held money; ``None`` if the hold has expired meanwhile."""
        held = self._budget.held
        assert held is not None
        order = replace(held, turn=self._next_number)
        try:
            prepare = self._preparing(candidate, fit.max_output_tokens, notices, is_last=True)
            result = await self._take(candidate, prompt, order, prepare)
        except AuthorityError as exc:
            if exc.status not in (404, 409, 410):
                raise
            logger.warning("What was held for a last answer is lost: %s", exc.message)
            self._budget.forget_hold()
            return None
        self._budget.forget_hold()
        return result

    # -- taking it --------------------------------------------------------------------------------------------------

    async def _take(
        self,
        candidate: TurnCandidate,
        prompt: PromptBound,
        order: SpendRequest,
        prepare: Callable[[Allowance], Prepared | Failure],
    ) -> TurnResult:
        self._tell(f"turn {order.turn}: asking {candidate.model}, at most ${format_usd(order.bound)}")
        result = await self._turns.take(TurnPlan(order=order, prepare=prepare, warnings=self._warnings.unwritten))
        if result.denial is None:
            self._warnings.note_written()
            self._bounder.learn(prompt, result.record)
        if result.remaining is not None:
            self._budget.remaining = Money.microcents(result.remaining)
        elif result.denial is None:
            await self._budget.look()
        return result

    @property
    def _next_number(self) -> int:
        return len(self._log.turns) + 1

    def _order(self, model: str, bound: int, *, tag: str = "", ttl_ms: int = LEASE_MS) -> SpendRequest:
        return SpendRequest(
            key=time_ordered_id(),
            subject=self._subject,
            kind="llm.completion",
            name=model,
            tags=("delegation", f"delegation-{self._log.delegation_id}", tag or f"turn-{self._next_number}"),
            bound=bound,
            turn=self._next_number,
            ttl_ms=ttl_ms,
        )

    def _preparing(
        self, candidate: TurnCandidate, max_output_tokens: int, notices: Sequence[Message], *, is_last: bool = False
    ) -> Callable[[Allowance], Prepared | Failure]:
        """Return the function that builds the request once its reservation, and with it the caps, exists."""

        def prepare(allowance: Allowance) -> Prepared | Failure:
            max_tokens = max_output_tokens
            if allowance.max_tokens is not None:
                max_tokens = min(max_tokens, allowance.max_tokens)
            if max_tokens < 1:
                return _not_allowed("output tokens")
            if allowance.max_steps == 0:
                return _not_allowed("further steps")
            steps = [each for each in (allowance.max_steps, self.steps_left) if each is not None]
            is_cut_short = self._requests.has_tools and not is_last and 1 in steps
            all_told = (*notices, *LAST_STEP.told()) if is_cut_short else tuple(notices)
            ends = is_last or is_cut_short
            request = self._requests.build(candidate, all_told, allowance, withholds_tools=ends)
            request["max_tokens"] = max_tokens
            return Prepared(request=request, rebuilt=candidate.rebuilt, notices=all_told, is_last=ends)

        return prepare


def _not_allowed(what: str) -> Failure:
    return Failure(message=f"The budget's caps allow no {what}: resume it once they do.", sending="unsent")
