"""Tool calls of a turn: all that Claude asked for run side by side, and those that have a price are paid for.

A priced call is reserved as ``tool.call`` before it runs and committed after, by the rules of ``reserver.py``. It costs
its price whether or not it succeeds, even if it was cut off: the tool may have done its work.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from budget_tools.claude.stream import ToolUse
from budget_tools.core.errors import AuthorityError
from budget_tools.core.ids import time_ordered_id
from budget_tools.core.money import Money
from budget_tools.core.subjects import Subject
from budget_tools.delegation.caps import Allowance
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.records import PARENT_META, ToolCallRecord, TurnRecord
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message
from budget_tools.spends.reserver import Lease, LimitDenial, NotSpentError, Reserver, SpendRequest
from budget_tools.spends.responses import Denial
from budget_tools.subagent_tools.toolbox import SubagentTool, ToolOutcome, failed

_Called = tuple[ToolOutcome, Money | None, Money | None]
"""The outcome of a call, what it was charged, and what the budget could not cover."""

_CUT_OFF = "This call was cut off when the delegation was stopped; whether it took effect is not known."


class ToolCaller:
    """Caller of the tools of one delegation.

    Args:
        tools: what may be used, by name.
        spender: pays for calls that have a price.
        log: keeps the outcomes.
        subject: whose budget pays.
        stop: cuts off what runs.
    """

    def __init__(
        self,
        tools: Mapping[str, SubagentTool],
        *,
        spender: Reserver,
        log: DelegationLog,
        subject: Subject,
        stop: Stop,
    ) -> None:
        self._tools = tools
        self._spender = spender
        self._log = log
        self._subject = subject
        self._stop = stop

    async def call_all(
        self, uses: Sequence[ToolUse], record: TurnRecord, allowance: Allowance
    ) -> tuple[Message, Sequence[ToolOutcome | None]]:
        """Run all calls of a turn side by side, and write their results down in the order asked.

        Returns:
            The message that answers Claude, and the outcome of each call in that order; ``None`` if it was cut off.
        """
        # By position: ids and names from an endpoint may not tell two calls apart.
        outcomes: list[ToolOutcome | None] = [None] * len(uses)
        records: list[ToolCallRecord | None] = [None] * len(uses)

        async def use(place: int, tool_use: ToolUse) -> None:
            started = time.monotonic()
            outcome, charged, uncovered = await self._call(tool_use, record.number, allowance)
            duration_ms = round((time.monotonic() - started) * 1_000)
            outcomes[place] = outcome
            records[place] = ToolCallRecord(
                name=tool_use.name,
                ok=not outcome.is_error,
                duration_ms=duration_ms,
                charged=charged,
                uncovered=uncovered,
            )

        with self._stop.interruptible():
            async with anyio.create_task_group() as tasks:
                for place, tool_use in enumerate(uses):
                    tasks.start_soon(use, place, tool_use)
        record.tool_calls = [each for each in records if each is not None]
        results = [
            _result(tool_use, outcome or failed(_CUT_OFF)) for tool_use, outcome in zip(uses, outcomes, strict=True)
        ]
        message = Message(role="user", content=results)
        await self._log.note_turn(record, messages=[message])
        return message, outcomes

    async def _call(self, tool_use: ToolUse, turn: int, allowance: Allowance) -> _Called:
        tool = self._tools.get(tool_use.name)
        if tool is None:
            return failed(f"There is no tool {tool_use.name!r} here."), None, None
        if tool_use.problem:
            return failed(f"{tool_use.problem} Nothing was run: make the call again with valid JSON."), None, None
        if not allowance.allows_tool(tool_use.name):
            return failed(f"The budget's caps do not allow the tool {tool_use.name!r}: go on without it."), None, None
        if tool.price is None:
            return await self._run(tool, tool_use), None, None
        return await self._buy(tool, tool_use, turn)

    async def _run(self, tool: SubagentTool, tool_use: ToolUse) -> ToolOutcome:
        return await tool.call(tool_use.input, meta={PARENT_META: self._log.delegation_id})

    async def _buy(self, tool: SubagentTool, tool_use: ToolUse, turn: int) -> _Called:
        """Make a call that has a price, under a reservation of it."""
        price = tool.price
        assert price is not None
        outcome: ToolOutcome | None = None
        charged: Money | None = None
        order = SpendRequest(
            key=time_ordered_id(),
            subject=self._subject.in_run(self._log.delegation_id).wire(),
            kind="tool.call",
            name=tool.name,
            tags=("delegation", f"delegation-{self._log.delegation_id}", f"turn-{turn}"),
            bound=price.amount,
            unit=price.unit,
            turn=turn,
        )

        async def deed(lease: Lease) -> None:
            nonlocal outcome, charged
            await lease.mark_in_flight()
            try:
                with self._stop.interruptible():
                    outcome = await self._run(tool, tool_use)
            except asyncio.CancelledError:
                # Past every shield: the event loop itself is ending, and the called tool may have done its work.
                self._stop.request()
            if outcome is not None and not outcome.was_called:
                raise NotSpentError
            charged = Money.of(price.amount, price.unit)
            lease.metadata |= {"delegation_id": self._log.delegation_id, "turn": turn, "actual_source": "price"}
            lease.settle(price.amount)

        try:
            ended = await self._spender.spend(order, deed)
        except NotSpentError:
            ended = None
        except AuthorityError as exc:
            return failed(f"{tool.name} was not called: {exc.message}"), None, None
        if isinstance(ended, Denial | LimitDenial):
            why = "this delegation's own limit" if isinstance(ended, LimitDenial) else ended.reason_code
            cost = Money.of(price.amount, price.unit)
            denied = f"a call costs {cost}, which the budget denies ({why}): go on without it."
            return failed(f"{tool.name} was not called: {denied}"), None, None
        uncovered: Money | None = None
        if ended is not None and ended.uncovered:
            charged = Money.of(ended.charged, price.unit)
            uncovered = Money.of(ended.uncovered, price.unit)
        return outcome or failed(_CUT_OFF), charged, uncovered


def _result(tool_use: ToolUse, outcome: ToolOutcome) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": tool_use.id, "content": list(outcome.content)}
    return {**result, "is_error": True} if outcome.is_error else result
