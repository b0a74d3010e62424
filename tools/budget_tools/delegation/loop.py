"""The conversation of one delegation: turns until Claude is done or a limit stops it.

Nothing here spends: a turn does, and only under its reservation (``turn.py``). Whatever stops the loop, what was
answered so far is kept and returned.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from runcycles import AsyncCyclesClient

from budget_tools.cycles import remaining
from budget_tools.delegation.claude import Claude, Reply, ToolUse
from budget_tools.delegation.policy import fit_turn
from budget_tools.delegation.records import Status, Task, ToolCallRecord, TurnRecord
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.toolbox import SubagentTool, ToolOutcome, failed
from budget_tools.delegation.turn import TurnPlan, TurnResult, TurnTaker
from budget_tools.errors import AuthorityError, BudgetError
from budget_tools.ids import time_ordered_id
from budget_tools.money import USD_MICROCENTS, Money, format_usd
from budget_tools.pricing import PriceBook
from budget_tools.tokens import most_input_tokens, with_margin

logger = logging.getLogger(__name__)

OutputLimit = Literal["task", "budget", "caps"]
"""What limits the length of a turn's answer: what the task asked for, the money that is left, or the budget's caps."""

_CUT_BY: Mapping[OutputLimit, tuple[Status, str]] = {
    "task": ("completed", "The answer was cut at max_output_tokens: allow more for a longer one."),
    "budget": ("budget_exhausted", "The last answer was cut where the budget ended."),
    "caps": ("budget_exhausted", "The answer was cut at the length that the budget's caps allow."),
}

_CANCELLED = "It was cancelled; what was in flight is settled."

MAX_FITS = 4
"""How often a turn is fitted anew while others take what remains in between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What every delegation of a process works with."""

    cycles: AsyncCyclesClient
    claude: Claude
    prices: PriceBook
    turns: TurnTaker


class Delegation:
    """One delegation: its conversation, its turns and how it stands.

    Args:
        delegation_id: its name towards the caller.
        task: what is to be done.
        tools: what the sub-agent may use, by name.
        means: what it works with.
    """

    def __init__(self, delegation_id: str, task: Task, tools: Mapping[str, SubagentTool], means: Means) -> None:
        self.id = delegation_id
        self.task = task
        self.status: Status = "running"
        self.turns: list[TurnRecord] = []
        self.text = ""
        self.hint = ""
        self.remaining: Money | None = None
        self.doing = "starting"
        self.steps = 0
        self.stop = Stop()
        self._tools = tools
        self._means = means
        self._changed = anyio.Event()
        opening = f"{task.task}\n\n{task.context}" if task.context else task.task
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": opening}]
        self._prompt_tokens: int | None = None
        """No fewer tokens than the next turn's prompt has, once the API has said how long the last one was."""

    @property
    def spent_microcents(self) -> int:
        """What its turns were charged so far."""
        return sum(turn.charged.amount for turn in self.turns if turn.charged is not None)

    @property
    def is_done(self) -> bool:
        """Whether it has stopped, with all of its turns settled."""
        return self.status != "running"

    async def next_change(self) -> None:
        """Wait until ``doing`` is told anew; returns at once when nothing will be, because it is done."""
        if not self.is_done:
            await self._changed.wait()

    async def run(self) -> None:
        """Take turns until there is a reason to stop; a caller reads the reason in ``status`` and ``hint``."""
        try:
            while not self.is_done:
                await self._take_turn()
        except BudgetError as exc:
            self._finish("failed", f"{exc.code}: {exc.message}")
        except asyncio.CancelledError:
            # The event loop is ending; nobody may be left waiting for this delegation.
            self._finish("cancelled", _CANCELLED)
            raise
        except Exception:
            logger.exception("Delegation %s failed by a fault of this server", self.id)
            self._finish("failed", "This server failed; its log on standard error says how.")

    # -- one turn ---------------------------------------------------------------------------------------------------

    async def _take_turn(self) -> None:
        if self.stop.is_requested():
            self._finish("cancelled", _CANCELLED)
            return
        if len(self.turns) >= self.task.max_turns:
            self._finish("max_turns", f"It took all of its {self.task.max_turns} turns: allow more with max_turns.")
            return
        taken = await self._fitted_turn()
        if taken is None:
            return
        result, limit = taken
        if result.reply is not None:
            await self._take_in(result.reply, result.record, limit)
        elif self.stop.is_requested():
            self._finish("cancelled", _CANCELLED)
        else:
            reason = result.failure.message if result.failure is not None else "The turn was interrupted."
            unknown = " What it cost is not known, so its bound was charged." if result.record.charged else ""
            self._finish("failed", f"{reason}{unknown}")

    async def _fitted_turn(self) -> tuple[TurnResult, OutputLimit] | None:
        """Fit a turn into the money and take it; ``None`` where the money or a stop ends the delegation before it.

        Beside the result: what limits the length of the answer.
        """
        number = len(self.turns) + 1
        request = self._request()
        input_tokens = await self._input_bound(request)
        wanted = self.task.max_output_tokens
        allowed = self._own_limit_left()
        for _ in range(MAX_FITS):
            if self.stop.is_requested():
                self._finish("cancelled", _CANCELLED)
                return None
            fit = fit_turn(
                self._means.prices,
                self.task.model,
                input_tokens=input_tokens,
                wanted_output_tokens=wanted,
                allowed_microcents=allowed,
            )
            if fit is None:
                break
            self._tell(f"turn {number}: asking {self.task.model}, at most ${format_usd(fit.bound_microcents)}")
            plan = TurnPlan(
                delegation_id=self.id,
                number=number,
                key=time_ordered_id(),
                request={**request, "max_tokens": fit.max_output_tokens},
                bound_microcents=fit.bound_microcents,
            )
            result = await self._means.turns.take(plan, self.task.subject, self.stop, self._tell)
            if result.denial is None:
                self.turns.append(result.record)
                await self._look_at_budget()
                return result, _limit_of(result, fit.max_output_tokens, wanted)
            await self._look_at_budget()
            if result.denial.reason_code != "BUDGET_EXCEEDED" or self.remaining is None:
                self._finish("budget_exhausted", f"{result.denial.reason_code}: {result.denial.hint}")
                return None
            # It may still fit with a shorter answer; what remains may also have changed by the time we ask again.
            left = max(self.remaining.amount, 0)
            allowed = left if allowed is None else min(left, allowed)
        self._exhausted(number)
        return None

    async def _look_at_budget(self) -> None:
        """Note what remains, if it can be read: a turn that was paid for is not lost over it."""
        try:
            self.remaining = await remaining(self._means.cycles, self.task.subject, USD_MICROCENTS)
        except AuthorityError as exc:
            logger.warning("What remains of the budget is not known: %s", exc.message)
            self.remaining = None

    async def _take_in(self, reply: Reply, record: TurnRecord, limit: OutputLimit) -> None:
        """Continue by the stop reason of a complete reply."""
        if reply.text:
            self.text = reply.text
        if reply.stop_reason == "tool_use" and reply.tool_uses:
            if record.number < self.task.max_turns and not self.stop.is_requested():
                await self._use_tools(reply, record)
        elif reply.stop_reason in ("end_turn", "stop_sequence"):
            self._finish("completed")
        elif reply.stop_reason == "max_tokens":
            self._finish(*_CUT_BY[limit])
        elif reply.stop_reason == "refusal":
            self._finish("refused", "Claude declined the task.")
        elif reply.stop_reason is None:
            self._finish("failed", "The answer broke off. What it cost is not known, so its bound was charged.")
        else:
            self._finish("failed", f"Claude stopped for a reason that cannot be continued: {reply.stop_reason}.")

    # -- the sub-agent's tools --------------------------------------------------------------------------------------

    async def _use_tools(self, reply: Reply, record: TurnRecord) -> None:
        """Run all tools that a reply asks for, side by side, and append their results in the order asked."""
        outcomes: dict[str, ToolOutcome] = {}
        records: dict[str, ToolCallRecord] = {}

        async def use(tool_use: ToolUse) -> None:
            started = time.monotonic()
            outcome = await self._use(tool_use)
            duration_ms = round((time.monotonic() - started) * 1_000)
            outcomes[tool_use.id] = outcome
            records[tool_use.id] = ToolCallRecord(name=tool_use.name, ok=not outcome.is_error, duration_ms=duration_ms)

        names = ", ".join(tool_use.name for tool_use in reply.tool_uses)
        self._tell(self._progress(f"turn {record.number} asks for {names}"))
        with self.stop.interruptible():
            async with anyio.create_task_group() as tasks:
                for tool_use in reply.tool_uses:
                    tasks.start_soon(use, tool_use)
        record.tool_calls = [records[tool_use.id] for tool_use in reply.tool_uses if tool_use.id in records]
        if self.stop.is_requested():
            return
        results = [_tool_result(tool_use, outcomes[tool_use.id]) for tool_use in reply.tool_uses]
        self._messages.append({"role": "assistant", "content": list(reply.content)})
        self._messages.append({"role": "user", "content": results})
        self._prompt_tokens = _next_prompt_tokens(record, results)

    async def _use(self, tool_use: ToolUse) -> ToolOutcome:
        tool = self._tools.get(tool_use.name)
        if tool is None:
            return failed(f"There is no tool {tool_use.name!r} here.")
        return await tool.call(tool_use.input)

    # -- limits and bounds ------------------------------------------------------------------------------------------

    def _request(self) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.task.model, "messages": self._messages}
        if self.task.system:
            request["system"] = self.task.system
        if self._tools:
            request["tools"] = [tool.wire() for tool in self._tools.values()]
        return request

    async def _input_bound(self, request: Mapping[str, Any]) -> int:
        """Bound the prompt: counted by the API where it will, by the last turn's exact usage, else by its bytes."""
        if self._prompt_tokens is not None:
            return with_margin(self._prompt_tokens)
        with self.stop.interruptible():
            counted = await self._means.claude.count_input_tokens(request)
            if counted is not None:
                return with_margin(counted)
        return most_input_tokens(request)

    def _own_limit_left(self) -> int | None:
        limit = self.task.budget_microcents
        return None if limit is None else max(limit - self.spent_microcents, 0)

    def _exhausted(self, number: int) -> None:
        limit = self.task.budget_microcents
        what = "The budget" if limit is None else f"What is left of the budget or of budget_usd (${format_usd(limit)})"
        self._finish("budget_exhausted", f"{what} does not cover the worst case of turn {number}, so it was not sent.")

    # -- telling ----------------------------------------------------------------------------------------------------

    def _progress(self, doing: str) -> str:
        left = f", {self.remaining} remains" if self.remaining is not None else ""
        return f"{doing}: ${format_usd(self.spent_microcents)} spent{left}"

    def _tell(self, doing: str) -> None:
        self.doing = doing
        self.steps += 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _finish(self, status: Status, hint: str = "") -> None:
        self.status, self.hint = status, hint
        self._tell(self._progress(status))


def _limit_of(result: TurnResult, max_output_tokens: int, wanted: int) -> OutputLimit:
    capped = result.caps.get("max_tokens") if result.caps is not None else None
    if capped is not None and capped < max_output_tokens:
        return "caps"
    return "budget" if max_output_tokens < wanted else "task"


def _tool_result(tool_use: ToolUse, outcome: ToolOutcome) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": tool_use.id, "content": list(outcome.content)}
    return {**result, "is_error": True} if outcome.is_error else result


def _next_prompt_tokens(record: TurnRecord, results: Sequence[Mapping[str, Any]]) -> int | None:
    """Bound the next prompt by the last one, its answer, and what was appended since.

    ``None`` where the API did not say how long they were: then only counting again bounds it.
    """
    last_prompt = record.input_tokens + record.cache_read_input_tokens + record.cache_creation_input_tokens
    if not last_prompt:
        return None
    return last_prompt + record.output_tokens + most_input_tokens({"messages": [{"role": "user", "content": results}]})
