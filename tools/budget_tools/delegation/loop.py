"""The conversation of one delegation: turns until Claude is done or a limit stops it.

Nothing here spends: a turn does, and only under its reservation (``reserver.py``). Nothing takes effect before it is
written down (``log.py``). ``choice.py`` chooses the next turn, and whether it is the last; ``replies.py`` decides what
follows from an answer, and ``endings.py`` words the endings. This module decides why a turn must be the last, and does
what follows.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
from runcycles import AsyncCyclesClient

from budget_tools.claude.client import Claude
from budget_tools.claude.output_schema import OutputSchema, repair_notice
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import BudgetError
from budget_tools.core.money import Money, format_usd
from budget_tools.delegation import endings
from budget_tools.delegation.choice import TurnChooser, TurnDenied, TurnTaken
from budget_tools.delegation.conversation import Conversation, go_on_notice, notice, opening
from budget_tools.delegation.delegation_budget import DelegationBudget
from budget_tools.delegation.final_answer import FinalAnswer
from budget_tools.delegation.landing import LAST_STEP, Landing
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.prompt_bound import PromptBounder
from budget_tools.delegation.records import Task, TurnRecord
from budget_tools.delegation.replies import Consequence, consequence_of, ending_of
from budget_tools.delegation.request import RequestBuilder
from budget_tools.delegation.result_warnings import ResultWarnings, warnings_of
from budget_tools.delegation.runaway import RunawayWatch
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import DelegationStore, Message, Outcome, Stored
from budget_tools.delegation.tool_calls import ToolCaller
from budget_tools.delegation.turn import TurnResult, TurnTaker
from budget_tools.pricing.book import PriceBook
from budget_tools.spends.reserver import Reserver
from budget_tools.spends.spend_client import SpendClient
from budget_tools.subagent_tools.toolbox import SubagentTool

logger = logging.getLogger(__name__)

_PAUSED = "You paused. Go on where you stopped."
_NOT_RUN = "Not run: the delegation was stopped first. Ask again if it is still needed."


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """The shared dependencies of every delegation of a process."""

    cycles: AsyncCyclesClient
    claude: Claude
    prices: PriceBook
    store: DelegationStore
    max_seconds: float
    """Maximum running time of a delegation from start or resume."""


class Delegation:
    """One running delegation: its conversation, its turns and its state.

    Args:
        stored: its state in the store.
        messages: its conversation so far; empty for a new one.
        tools: what the sub-agent may use, by name.
        means: the dependencies of the process.
    """

    def __init__(
        self, stored: Stored, messages: Sequence[Message], tools: Mapping[str, SubagentTool], means: Means
    ) -> None:
        self.id = stored.delegation_id
        self.task: Task = stored.task
        self.outcome: Outcome | None = None
        self.doing = "starting"
        self.steps = 0
        self.stop = Stop()
        self.nested_microcents = stored.children_spent_microcents
        """Charges of delegations that its sub-agent made, as of the last time that this one began or ended."""
        self._changed = anyio.Event()
        self._conversation = Conversation(messages)
        self._tenant = stored.tenant
        self._store = means.store
        self._log = DelegationLog(means.store, stored)
        spender = Reserver(cycles=SpendClient(means.cycles, stored.delegation_id), log=self._log)
        self._budget = DelegationBudget(cycles=means.cycles, spender=spender, log=self._log, subject=self.task.subject)
        schema = None if self.task.output_schema is None else OutputSchema.parse(self.task.output_schema)
        self._answer = FinalAnswer(schema, self._log)
        requests = RequestBuilder(self.task, tools, schema)
        self._has_tools = requests.has_tools
        self._limits = endings.Limits(self.task)
        self._warnings = ResultWarnings()
        self._chooser = TurnChooser(
            self.task,
            requests=requests,
            bounder=PromptBounder(requests, claude=means.claude, stop=self.stop, warn=self._warnings.add),
            prices=means.prices,
            turns=TurnTaker(
                claude=means.claude,
                prices=means.prices,
                spender=spender,
                log=self._log,
                stop=self.stop,
                tell=self._report,
            ),
            budget=self._budget,
            log=self._log,
            stop=self.stop,
            tell=self._report,
            warnings=self._warnings,
        )
        self._caller = ToolCaller(tools, spender=spender, log=self._log, subject=self.task.subject, stop=self.stop)
        self._watch = RunawayWatch(max_seconds=means.max_seconds)
        self._started_at = time.monotonic()
        self._landing: Landing | None = None
        """Set once the next turn must be the last."""

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def turns(self) -> Sequence[TurnRecord]:
        """The turns so far."""
        return self._log.turns

    @property
    def text(self) -> str:
        """The sub-agent's last words."""
        return self._log.text

    @property
    def warnings(self) -> Sequence[str]:
        """What its caller should know besides the answer."""
        return warnings_of(self._log.turns, *self._warnings.unwritten)

    @property
    def spent_microcents(self) -> int:
        """What its turns and their tools were charged so far."""
        return self._log.spent_microcents

    @property
    def remaining(self) -> Money | None:
        """What remained of its budget after the last turn, if that is known."""
        return self._budget.remaining

    @property
    def is_done(self) -> bool:
        """Whether it has stopped, with all of its turns settled."""
        return self.outcome is not None

    async def next_change(self) -> None:
        """Wait for the next change of ``doing``; return at once if the delegation has ended."""
        if not self.is_done:
            await self._changed.wait()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take turns until there is a reason to stop, which ``outcome`` then holds."""
        outcome = Outcome(status="failed", hint="This server failed; its log on standard error says how.")
        try:
            outcome = await self._work()
        except BudgetError as exc:
            outcome = Outcome(status="failed", hint=f"{exc.code}: {exc.message}")
        except asyncio.CancelledError:
            # The event loop is ending; no caller may be left waiting for this delegation.
            outcome = endings.CANCELLED
            raise
        except Exception:
            logger.exception("Delegation %s failed by a fault of this server", self.id)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(outcome)

    async def _work(self) -> Outcome:
        await self._pick_up()
        while True:
            outcome = await self._take_turn()
            if outcome is not None:
                return outcome

    async def _end(self, outcome: Outcome) -> None:
        """Release the hold, and write the end down."""
        try:
            await self._budget.release()
            await self._budget.look()
            if self._warnings.unwritten and self._log.turns:
                self._log.turns[-1].warnings += self._warnings.unwritten
                self._warnings.note_written()
                await self._log.note_turn(self._log.turns[-1])
            await self._log.finish(outcome)
            if self._has_tools:
                self.nested_microcents = (await self._store.find(self._tenant, self.id)).children_spent_microcents
        except BudgetError as exc:
            logger.error("The end of delegation %s was not written down: %s", self.id, exc.message)  # noqa: TRY400
        finally:
            self.outcome = outcome
            self._report(outcome.status)

    async def _pick_up(self) -> None:
        """Begin the conversation, or bring a stopped one to where it can continue."""
        if not self._conversation.messages:
            await self._say(opening(self.task))
            return
        if self._log.turns and ending_of(self._log.turns[-1].stop_reason) == "window_full":
            # Any addition would not fit: its record replaces the whole conversation.
            self._conversation = self._conversation.rebuilt(self.task)
            await self._log.note_messages(*self._conversation.messages)
        elif self._conversation.open_tool_uses():
            await self._say(self._conversation.results_of_interrupted())
        elif self._conversation.messages[-1].role == "assistant" and self._turns_taken < self.task.max_turns:
            await self._say(go_on_notice(self.task.max_turns - self._turns_taken))

    async def _say(self, *messages: Message) -> None:
        await self._log.note_messages(*messages)
        self._conversation.append(*messages)

    # -- one turn ---------------------------------------------------------------------------------------------------

    @property
    def _turns_taken(self) -> int:
        """Turns that cost something, or may have."""
        return sum(turn.charged is not None for turn in self._log.turns)

    async def _take_turn(self) -> Outcome | None:
        """Take the next turn, and return how the delegation ended if it did."""
        if self.stop.is_requested():
            return endings.CANCELLED
        if self._turns_taken >= self.task.max_turns:
            return Outcome(status="max_turns", hint=self._limits.all_turns_taken())
        warning = self._consider_landing()
        taken: TurnTaken | TurnDenied | None = None
        if self._landing is None:
            taken = await self._chooser.ordinary(self._conversation, warning)
            if self.stop.is_requested() and not isinstance(taken, TurnTaken):
                return endings.CANCELLED
            if isinstance(taken, TurnDenied):
                if taken.is_final or self._budget.held is None:
                    return taken.outcome
                self._landing = taken.landing
            elif taken is None:
                if not self._has_tools:
                    return self._nothing_fits()
                self._landing = self._out_of_money()
        if self._landing is not None:
            taken = await self._chooser.last(self._conversation, self._landing)
        if isinstance(taken, TurnTaken):
            return await self._after(taken)
        if self.stop.is_requested():
            return endings.CANCELLED
        return self._nothing_fits() if taken is None else taken.outcome

    def _consider_landing(self) -> str:
        """Set why the next turn must be the last, or return a warning for the sub-agent."""
        if self._landing is not None or not self._has_tools:
            return ""
        verdict = self._watch.verdict(time.monotonic() - self._started_at)
        if verdict is not None and verdict.must_land:
            hint = f"It was made to stop: {verdict.reason}. Resume it to let it go on all the same."
            self._landing = Landing(status="failed", hint=hint, reason=verdict.reason)
        elif self._turns_taken + 1 >= self.task.max_turns:
            turns = self.task.max_turns
            reason = f"it is turn {turns} of {turns}" if turns > 1 else "you have only one"
            self._landing = Landing(status="max_turns", hint=self._limits.all_turns_taken(), reason=reason)
        elif self._chooser.steps_left is not None and self._chooser.steps_left <= 1:
            self._landing = LAST_STEP
        return "" if verdict is None else verdict.notice

    async def _after(self, taken: TurnTaken) -> Outcome | None:
        """Continue according to the result of a turn."""
        result = taken.result
        record = result.record
        self._conversation = taken.conversation
        self._conversation.append(*result.messages)
        self._conversation.note_usage(record, result.prepared.request, result.messages)
        is_measured = record.charged is not None and record.actual_source == "usage"
        self._watch.note_turn(record.charged.amount if record.charged is not None and is_measured else 0)
        self._chooser.note_step(result.allowance)
        if self._landing is None and result.prepared.is_last:
            self._landing = LAST_STEP
        if result.reply is None:
            return endings.CANCELLED if self.stop.is_requested() else endings.end_without_reply(result.failure, record)
        outcome = await self._follow(consequence_of(result.reply), result.reply, result)
        if outcome is None and result.allowance.cooldown_ms:
            seconds = result.allowance.cooldown_ms / 1_000
            self._report(f"turn {record.number}: the budget's caps ask to wait {seconds:g} s")
            with self.stop.interruptible():
                await anyio.sleep(seconds)
        return outcome

    async def _follow(self, consequence: Consequence, reply: Reply, result: TurnResult) -> Outcome | None:
        """Do what follows from an answer."""
        landing = self._landing
        match consequence:
            case "refused" | "broken_off":
                return endings.end_by(consequence, reply)
            case _ if landing is not None and not landing.is_repair:
                if self._conversation.open_tool_uses():
                    await self._say(self._conversation.results(_NOT_RUN))
                return self._answer.landed(reply, landing)
            case "run_calls":
                return await self._use_tools(reply, result)
            case "go_on":
                self._answer.note_pause(reply)
                if reply.content[-1].get("type") == "text":
                    # The API refuses a conversation that ends with a text of its own.
                    await self._say(notice(_PAUSED))
                return None
            case "answer":
                return await self._answered(reply)
            case "cut_words" | "cut_call" | "cut_thoughts":
                return await self._cut(consequence, reply, result)
            case _:
                self._answer.take_text(reply)
                await self._tell_of(consequence, reply, result)
                return endings.end_by(consequence, reply)

    async def _tell_of(self, consequence: Consequence, reply: Reply, result: TurnResult) -> None:
        """Have the sub-agent told what was wrong with its last message, should it be resumed."""
        length = result.prepared.request["max_tokens"]
        if told := endings.told_after(consequence, reply, length, wants_json=self._answer.has_form):
            await self._say(notice(told))

    async def _use_tools(self, reply: Reply, result: TurnResult) -> Outcome | None:
        self._answer.take_text(reply)
        if self.stop.is_requested():
            await self._say(self._conversation.results(_NOT_RUN))
            return endings.CANCELLED
        names = ", ".join(tool_use.name for tool_use in reply.tool_uses)
        self._report(f"turn {result.record.number} asks for {names}")
        message, outcomes = await self._caller.call_all(reply.tool_uses, result.record, result.allowance)
        self._conversation.append(message)
        for tool_use, outcome in zip(reply.tool_uses, outcomes, strict=True):
            if outcome is not None:
                self._watch.note_tool_call(tool_use.name, tool_use.input, outcome.content, outcome.is_error)
        return None

    # -- answers ----------------------------------------------------------------------------------------------------

    async def _answered(self, reply: Reply) -> Outcome | None:
        """Accept a final answer; one that does not fit the schema may be given once more, within the same limits."""
        checked = self._answer.check(reply)
        if isinstance(checked, Outcome):
            return checked
        hint = f"The answer does not fit output_schema: {checked.problem}"
        if self._answer.misfit:
            return Outcome(status="failed", hint=hint)
        if self._turns_taken >= self.task.max_turns or self._chooser.steps_left == 0:
            return Outcome(status="max_turns", hint=f"{hint} There was no turn left to mend it.")
        self._answer.misfit = hint
        if self._has_tools:
            self._landing = Landing(status="failed", hint=hint, is_repair=True)
        await self._say(notice(repair_notice(checked)))
        return None

    async def _cut(self, consequence: Consequence, reply: Reply, result: TurnResult) -> Outcome | None:
        """End with an answer that was cut, or ask for a shorter one if the held money affords it."""
        limit = endings.limit_of(result.prepared.request["max_tokens"], self.task, result.allowance)
        await self._tell_of(consequence, reply, result)
        if limit == "budget" and self._budget.held is not None:
            self._landing = self._out_of_money()
            return None
        self._answer.take_text(reply)
        how_far = self._how_far(self._limits.growth_tokens)
        return endings.cut_by(limit, consequence, reply, how_far, wants_json=self._answer.has_form)

    # -- limits -----------------------------------------------------------------------------------------------------

    def _out_of_money(self) -> Landing:
        return self._limits.out_of_money(self._how_far(self._limits.growth_tokens))

    def _how_far(self, further_tokens: int = 0) -> str:
        need = self._chooser.candidates.need(further_tokens=further_tokens)
        return self._limits.how_far(need, self.spent_microcents + self.nested_microcents)

    def _nothing_fits(self) -> Outcome:
        hint = self._limits.nothing_fits(len(self._log.turns) + 1, self._how_far())
        if failure := self._chooser.candidates.last_failure:
            return Outcome(status="failed", hint=f"{failure} {hint}")
        if self._landing is not None and self._landing.status != "budget_exhausted":
            hint = f"{self._landing.hint} {hint}"
        elif self._answer.misfit:
            hint = f"{self._answer.misfit} {hint}"
        return Outcome(status="budget_exhausted", hint=hint)

    # -- reporting --------------------------------------------------------------------------------------------------

    def _report(self, doing: str) -> None:
        """Report what the delegation is doing, and the state of its money."""
        left = f", {self.remaining} remains" if self.remaining is not None else ""
        self.doing = f"{doing}: ${format_usd(self.spent_microcents)} spent{left}"
        self.steps += 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
