"""The log of one delegation: its writes, in the required order, and what it has written so far."""

import logging
from collections.abc import Collection, Sequence

from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import DelegationStore, Message, Outcome, Step, Stored
from budget_tools.spends.records import Spend

logger = logging.getLogger(__name__)


class DelegationLog:
    """The store as one running delegation uses it.

    Settled spends are deleted with the next write instead of by one of their own: finding one again after a crash does
    no harm, because it is settled under the same keys.
    """

    def __init__(self, store: DelegationStore, stored: Stored) -> None:
        self._store = store
        self._struck: list[str] = []
        self.delegation_id = stored.delegation_id
        self.turns: list[TurnRecord] = list(stored.turns)
        self.text = stored.text
        self._unwritten_text: str | None = None
        self.model = stored.model
        self._is_limited = stored.task.budget_microcents is not None or bool(stored.parent_id)

    @property
    def spent_microcents(self) -> int:
        """What the turns and their tools were charged so far."""
        return sum(turn_cost_microcents(turn) for turn in self.turns)

    async def left_microcents(self) -> int | None:
        """Return what the delegation's own limits still allow besides what is held; ``None`` if there are none."""
        return await self._store.left_microcents(self.delegation_id) if self._is_limited else None

    async def mark_in_flight(self, spend: Spend) -> None:
        """Write a spend down before it may happen.

        Raises:
            LimitReachedError: it does not fit a limit of the delegation; nothing was written.
        """
        struck = tuple(self._struck)
        await self._store.mark_in_flight(self.delegation_id, spend, struck=struck)
        self._forget(struck)

    def clear(self, reservation_id: str) -> None:
        """Record that a spend is settled."""
        self._struck.append(reservation_id)

    async def note_turn(
        self,
        turn: TurnRecord,
        *,
        messages: Sequence[Message] = (),
        text: str = "",
        charged_reservation_id: str = "",
        charged: int | None = None,
    ) -> None:
        """Write down the state of a turn, its messages, and what a spend of it turned out to cost."""
        if self.turns and self.turns[-1].number == turn.number:
            self.turns[-1] = turn
        else:
            self.turns.append(turn)
        if text:
            self.text, self._unwritten_text = text, None
        has_moved = bool(messages) and turn.model != self.model
        self.model = turn.model if has_moved else self.model
        charges = {charged_reservation_id: charged} if charged is not None else {}
        await self._write(
            Step(
                turn=turn,
                messages=messages,
                text=text or None,
                model=turn.model if has_moved else None,
                spent_microcents=self.spent_microcents,
                charges=charges,
                struck=tuple(self._struck),
            )
        )

    def replace_text(self, text: str) -> None:
        """Replace the last words of the last turn; they are written down with the end."""
        self.text = self._unwritten_text = text

    async def note_messages(self, *messages: Message) -> None:
        """Write down further messages of the conversation."""
        await self._write(Step(messages=messages, struck=tuple(self._struck)))

    async def finish(self, outcome: Outcome) -> None:
        """Write down the end."""
        await self._write(Step(outcome=outcome, text=self._unwritten_text, struck=tuple(self._struck)))

    async def _write(self, step: Step) -> None:
        await self._store.write(self.delegation_id, step)
        self._forget(step.struck)

    def _forget(self, written: Collection[str]) -> None:
        self._struck = [reservation_id for reservation_id in self._struck if reservation_id not in written]


def turn_cost_microcents(turn: TurnRecord) -> int:
    """Return what a turn was charged, its tools included."""
    charges = [turn.charged, *(call.charged for call in turn.tool_calls)]
    return sum(charge.amount for charge in charges if charge is not None and charge.unit == "USD_MICROCENTS")
