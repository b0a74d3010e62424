"""The conversation of one delegation: turns until Claude is done or a limit stops it.

Nothing here spends: a turn does, and only under its reservation (``spending.py``). Nothing matters before it is written
down (``log.py``). Which turn comes next, and whether it is the last, is chosen in ``choice.py``; this module says why a
turn must be the last, and what follows from how it ended.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
from runcycles import AsyncCyclesClient

from budget_tools.claude.client import Claude
from budget_tools.claude.output_schema import Mismatch, OutputSchema, repair_notice
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import BudgetError
from budget_tools.core.money import Money, format_usd
from budget_tools.delegation.caps import Allowance
from budget_tools.delegation.choice import LAST_STEP, Landing, TurnChooser, TurnDenied, TurnTaken
from budget_tools.delegation.conversation import Conversation, notice, opening
from budget_tools.delegation.delegation_budget import DelegationBudget
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.records import Status, Task, TurnRecord
from budget_tools.delegation.request import RequestBuilder
from budget_tools.delegation.runaway import RunawayWatch
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import DelegationStore, Message, Outcome, Stored
from budget_tools.delegation.tool_calls import ToolCaller
from budget_tools.delegation.turn import TurnResult, TurnTaker
from budget_tools.pricing.book import PriceBook
from budget_tools.spends.reserver import Reserver
from budget_tools.subagent_tools.toolbox import SubagentTool

logger = logging.getLogger(__name__)

OutputLimit = Literal["task", "budget", "caps"]
"""What limits the length of a turn's answer: what the task asked for, the money that is left, or the budget's caps."""

_CUT_BY: Mapping[OutputLimit, tuple[Status, str]] = {
    "task": ("completed", "The answer was cut at max_output_tokens: allow more for a longer one."),
    "budget": ("budget_exhausted", "The last answer was cut where the budget ended: raise it and resume."),
    "caps": (
        "budget_exhausted",
        "The answer was cut at the length that the budget's caps allow: resume it for the rest.",
    ),
}

_GO_ON = "You may go on with the task: you have at most {turns} more turn{s}."
_NOT_RUN = "Not run: the delegation was stopped first. Ask again if it is still needed."

_CANCELLED = Outcome(status="cancelled", hint="It was cancelled; what was in flight is settled. Resume it to go on.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What every delegation of a process works with."""

    cycles: AsyncCyclesClient
    claude: Claude
    prices: PriceBook
    store: DelegationStore
    max_seconds: float
    """How long a delegation may run at a stretch."""


class Delegation:
    """One running delegation: its conversation, its turns and how it stands.

    Args:
        stored: how it stands in the store.
        messages: its conversation so far; empty for a new one.
        tools: what the sub-agent may use, by name.
        means: what it works with.
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
        """What delegations that its sub-agent made were charged, as it stood when this one last began or ended."""
        self._changed = anyio.Event()
        self._conversation = Conversation(messages)
        self._tenant = stored.tenant
        self._store = means.store
        self._log = DelegationLog(means.store, stored)
        spender = Reserver(cycles=means.cycles, log=self._log)
        self._budget = DelegationBudget(cycles=means.cycles, spender=spender, log=self._log, subject=self.task.subject)
        self._schema = None if self.task.output_schema is None else OutputSchema.parse(self.task.output_schema)
        requests = RequestBuilder(self.task, tools, self._schema)
        self._has_tools = requests.has_tools
        self._chooser = TurnChooser(
            self.task,
            requests=requests,
            prices=means.prices,
            claude=means.claude,
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
        )
        self._caller = ToolCaller(tools, spender=spender, log=self._log, subject=self.task.subject, stop=self.stop)
        self._watch = RunawayWatch(max_seconds=means.max_seconds)
        self._started_at = time.monotonic()
        self._has_repaired = False
        self._misfit = ""
        """What did not fit in the answer that is being mended."""
        self._landing: Landing | None = None
        """Set once the next turn must be the last."""

    # -- how it stands ----------------------------------------------------------------------------------------------

    @property
    def turns(self) -> Sequence[TurnRecord]:
        """The turns so far."""
        return self._log.turns

    @property
    def text(self) -> str:
        """The sub-agent's last words."""
        return self._log.text

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
        """Wait until ``doing`` is told anew; returns at once when nothing will be, because it is done."""
        if not self.is_done:
            await self._changed.wait()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take turns until there is a reason to stop, which ``outcome`` then tells."""
        outcome = Outcome(status="failed", hint="This server failed; its log on standard error says how.")
        try:
            outcome = await self._work()
        except BudgetError as exc:
            outcome = Outcome(status="failed", hint=f"{exc.code}: {exc.message}")
        except asyncio.CancelledError:
            # The event loop is ending; nobody may be left waiting for this delegation.
            outcome = _CANCELLED
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
        """Give back what is held, and write the end down."""
        try:
            await self._budget.release()
            await self._budget.look()
            await self._log.finish(outcome)
            if self._has_tools:
                self.nested_microcents = (await self._store.find(self._tenant, self.id)).children_spent_microcents
        except BudgetError as exc:
            logger.error("The end of delegation %s was not written down: %s", self.id, exc.message)  # noqa: TRY400
        finally:
            self.outcome = outcome
            self._tell(self._progress(outcome.status))

    async def _pick_up(self) -> None:
        """Begin the conversation, or bring one that stopped to where it can go on."""
        if not self._conversation.messages:
            await self._say(opening(self.task))
        elif self._conversation.open_tool_uses():
            await self._say(self._conversation.results_of_interrupted())
        elif self._conversation.messages[-1].role == "assistant" and self._turns_taken < self.task.max_turns:
            turns = self.task.max_turns - self._turns_taken
            await self._say(notice(_GO_ON.format(turns=turns, s="" if turns == 1 else "s")))

    async def _say(self, *messages: Message) -> None:
        await self._log.note_messages(*messages)
        self._conversation.append(*messages)

    # -- one turn ---------------------------------------------------------------------------------------------------

    @property
    def _turns_taken(self) -> int:
        """Turns that cost something, or may have."""
        return sum(turn.charged is not None for turn in self._log.turns)

    async def _take_turn(self) -> Outcome | None:
        """Take the next turn, and say how the delegation ended if it did."""
        if self.stop.is_requested():
            return _CANCELLED
        if self._turns_taken >= self.task.max_turns:
            return Outcome(status="max_turns", hint=self._all_turns_taken())
        warning = self._consider_landing()
        taken: TurnTaken | TurnDenied | None = None
        if self._landing is None:
            taken = await self._chooser.ordinary(self._conversation, warning)
            if self.stop.is_requested() and not isinstance(taken, TurnTaken):
                return _CANCELLED
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
            return _CANCELLED
        return self._nothing_fits() if taken is None else taken.outcome

    def _consider_landing(self) -> str:
        """Set why the next turn must be the last, or give a warning that the sub-agent is to hear."""
        if self._landing is not None or not self._has_tools:
            return ""
        verdict = self._watch.verdict(time.monotonic() - self._started_at)
        if verdict is not None and verdict.must_land:
            hint = f"It was made to stop: {verdict.reason}. Resume it to let it go on all the same."
            self._landing = Landing(status="failed", hint=hint, reason=verdict.reason)
        elif self._turns_taken + 1 >= self.task.max_turns:
            turns = self.task.max_turns
            reason = f"it is turn {turns} of {turns}" if turns > 1 else "you have only one"
            self._landing = Landing(status="max_turns", hint=self._all_turns_taken(), reason=reason)
        elif self._chooser.steps_left is not None and self._chooser.steps_left <= 1:
            self._landing = LAST_STEP
        return "" if verdict is None else verdict.notice

    async def _after(self, taken: TurnTaken) -> Outcome | None:
        """Go on by what came of a turn."""
        result = taken.result
        record = result.record
        self._conversation = taken.conversation
        self._conversation.append(*result.messages)
        self._conversation.note_usage(record)
        is_measured = record.charged is not None and record.actual_source == "usage"
        self._watch.note_turn(record.charged.amount if record.charged is not None and is_measured else 0)
        self._note_steps(result.allowance)
        if self._landing is None and result.prepared.is_last:
            self._landing = LAST_STEP
        if result.reply is None:
            return self._without_reply(result)
        outcome = await self._by_stop_reason(result.reply, result)
        if outcome is None and result.allowance.cooldown_ms:
            seconds = result.allowance.cooldown_ms / 1_000
            self._tell(self._progress(f"turn {record.number}: the budget's caps ask to wait {seconds:g} s"))
            with self.stop.interruptible():
                await anyio.sleep(seconds)
        return outcome

    def _note_steps(self, allowance: Allowance) -> None:
        steps = [each for each in (self._chooser.steps_left, allowance.max_steps) if each is not None]
        self._chooser.steps_left = min(steps) - 1 if steps else None

    def _without_reply(self, result: TurnResult) -> Outcome:
        if self.stop.is_requested():
            return _CANCELLED
        reason = result.failure.message if result.failure is not None else "The turn was interrupted."
        unknown = " What it cost is not known, so its bound was charged." if result.record.charged else ""
        return Outcome(status="failed", hint=f"{reason}{unknown}")

    async def _by_stop_reason(self, reply: Reply, result: TurnResult) -> Outcome | None:
        landing = self._landing
        match reply.stop_reason:
            case None:
                hint = "The answer broke off. What it cost is not known, so its bound was charged."
                return Outcome(status="failed", hint=hint)
            case "refusal":
                category = f" (category {reply.refusal_category})" if reply.refusal_category else ""
                return Outcome(status="refused", hint=f"Claude declined the task{category}.")
            case _ if landing is not None and not landing.is_repair:
                if reply.tool_uses:
                    await self._say(self._conversation.results(_NOT_RUN))
                return self._landed(reply, landing)
            case "tool_use" if reply.tool_uses:
                return await self._use_tools(reply, result)
            case "end_turn" | "stop_sequence" | "":
                return await self._answered(reply)
            case "max_tokens":
                return self._cut(result)
            case other:
                hint = f"Claude stopped for a reason that cannot be continued: {other}."
                return Outcome(status="failed", hint=hint)

    async def _use_tools(self, reply: Reply, result: TurnResult) -> Outcome | None:
        if self.stop.is_requested():
            await self._say(self._conversation.results(_NOT_RUN))
            return _CANCELLED
        names = ", ".join(tool_use.name for tool_use in reply.tool_uses)
        self._tell(self._progress(f"turn {result.record.number} asks for {names}"))
        message, outcomes = await self._caller.call_all(reply.tool_uses, result.record, result.allowance)
        self._conversation.append(message)
        for tool_use in reply.tool_uses:
            if (outcome := outcomes.get(tool_use.id)) is not None:
                self._watch.note_tool_call(tool_use.name, tool_use.input, outcome.content, outcome.is_error)
        return None

    # -- answers ----------------------------------------------------------------------------------------------------

    async def _answered(self, reply: Reply) -> Outcome | None:
        """Take a final answer; one that does not fit the schema may be given once more, within the same limits."""
        if self._schema is None:
            return Outcome(status="completed")
        checked = self._schema.check(reply.text)
        if not isinstance(checked, Mismatch):
            return Outcome(status="completed", structured=checked.value)
        hint = f"The answer does not fit output_schema: {checked.problem}"
        if self._has_repaired:
            return Outcome(status="failed", hint=hint)
        if self._turns_taken >= self.task.max_turns or self._chooser.steps_left == 0:
            return Outcome(status="max_turns", hint=f"{hint} There was no turn left to mend it.")
        self._has_repaired = True
        self._misfit = hint
        if self._has_tools:
            self._landing = Landing(status="failed", hint=hint, is_repair=True)
        await self._say(notice(repair_notice(checked)))
        return None

    def _landed(self, reply: Reply, landing: Landing) -> Outcome:
        """Say how a delegation ended whose last turn was its last, whatever it said."""
        hint = landing.hint
        if not reply.text:
            hint = f"{hint} Its last turn brought no answer (stop reason {reply.stop_reason})."
        elif reply.stop_reason == "max_tokens":
            hint = f"{hint} Its last answer was cut."
        if self._schema is None:
            return Outcome(status=landing.status, hint=hint)
        checked = self._schema.check(reply.text)
        if isinstance(checked, Mismatch):
            return Outcome(status=landing.status, hint=f"{hint} It does not fit output_schema: {checked.problem}")
        return Outcome(status=landing.status, hint=hint, structured=checked.value)

    def _cut(self, result: TurnResult) -> Outcome | None:
        """End with an answer that was cut, or have a shorter one said where money that is held affords it."""
        max_tokens = result.prepared.request["max_tokens"]
        limit: OutputLimit = "task"
        if max_tokens < self.task.max_output_tokens:
            limit = "caps" if result.allowance.max_tokens == max_tokens else "budget"
        if limit == "budget" and self._budget.held is not None:
            self._landing = self._out_of_money()
            return None
        status, hint = _CUT_BY[limit]
        return Outcome(status=status, hint=hint)

    # -- limits -----------------------------------------------------------------------------------------------------

    def _all_turns_taken(self) -> str:
        return f"It took all of its {self.task.max_turns} turns: resume it with a larger max_turns for more."

    def _out_of_money(self) -> Landing:
        return Landing(
            status="budget_exhausted",
            hint=f"{self._what_ended()} covered no more than a last answer: raise it and resume for more.",
            reason="what is left of the budget covers no more than this answer",
        )

    def _nothing_fits(self) -> Outcome:
        number = len(self._log.turns) + 1
        hint = f"{self._what_ended()} does not cover turn {number} at worst, so it was not sent: raise it and resume."
        if self._landing is not None and self._landing.status != "budget_exhausted":
            hint = f"{self._landing.hint} {hint}"
        elif self._misfit:
            hint = f"{self._misfit} {hint}"
        return Outcome(status="budget_exhausted", hint=hint)

    def _what_ended(self) -> str:
        limit = self.task.budget_microcents
        return "The budget" if limit is None else f"What is left of the budget or of budget_usd (${format_usd(limit)})"

    # -- telling ----------------------------------------------------------------------------------------------------

    def _progress(self, doing: str) -> str:
        left = f", {self.remaining} remains" if self.remaining is not None else ""
        return f"{doing}: ${format_usd(self.spent_microcents)} spent{left}"

    def _report(self, doing: str) -> None:
        """Tell what a turn is doing, and how the money stands."""
        self._tell(self._progress(doing))

    def _tell(self, doing: str) -> None:
        self.doing = doing
        self.steps += 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
