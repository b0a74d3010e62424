"""The files of a data directory at one moment, and what must hold of them at every moment and between two."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.database.file import wall_ms
from budget_server.delegations import rows
from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.delegation.log import turn_cost_microcents
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import Message, Stored
from budget_tools.spends.records import Spend
from hosting import Environment


class Reserved(NamedTuple):
    """A reservation as the ledger has it."""

    state: str
    charged: int


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """What is read of a ledger."""

    reservations: Mapping[str, Reserved]
    balance: Mapping[str, int]

    @classmethod
    def of(cls, ledger: Ledger) -> "LedgerView":
        """Read it, within a transaction; there is one budget."""
        columns = ("allocated", "spent", "reserved", "remaining", "debt")
        balance = ledger.db.execute(f"SELECT {', '.join(columns)} FROM budgets").fetchone()  # noqa: S608 - constants
        assert balance is not None
        found: list[tuple[Any, ...]] = ledger.db.execute(
            "SELECT reservation_id, state, coalesce(charged, 0) FROM reservations"
        ).fetchall()
        return cls(
            reservations={row[0]: Reserved(*row[1:]) for row in found},
            balance={name: int(str(amount)) for name, amount in zip(columns, balance, strict=True)},
        )


@dataclass(frozen=True, kw_only=True)
class Books:
    """The delegations and the ledger."""

    delegations: Mapping[str, Stored]
    conversations: Mapping[str, Sequence[Message]]
    spends: Mapping[str, Sequence[Spend]]
    ledger: LedgerView

    @property
    def charged(self) -> int:
        """What all delegations say that they were charged."""
        return sum(each.spent_microcents for each in self.delegations.values())

    @property
    def turns_charged(self) -> int:
        """How many turns cost something, or may have."""
        return sum(turn.charged is not None for each in self.delegations.values() for turn in each.turns)

    @property
    def open_spends(self) -> Sequence[Spend]:
        """All that is in flight or held."""
        return [spend for spends in self.spends.values() for spend in spends]

    def reservation(self, spend: Spend) -> Reserved:
        """What a spend was reserved as."""
        return self.ledger.reservations[spend.reservation_id]

    def check_sums(self, *, beside: int = 0) -> None:
        """Money adds up: each delegation's own, each turn with its reservation, and all together with the ledger.

        Args:
            beside: what was spent past the delegations.
        """
        for each in self.delegations.values():
            assert sum(turn_cost_microcents(turn) for turn in each.turns) == each.spent_microcents, each
            if each.task.budget_microcents is not None:
                assert each.spent_microcents + each.children_spent_microcents <= each.task.budget_microcents, each
            unsettled = {spend.reservation_id for spend in self.spends[each.delegation_id]}
            for turn in each.turns:
                if turn.charged is not None:
                    assert turn.reserved is not None
                    assert 0 < turn.charged.amount <= turn.reserved.amount, turn
                    assert turn.actual_source == "usage" or turn.charged == turn.reserved, turn
                    if turn.reservation_id not in unsettled:
                        reserved = self.ledger.reservations[turn.reservation_id]
                        assert reserved == Reserved("COMMITTED", turn.charged.amount), turn
        balance = self.ledger.balance
        assert balance["remaining"] >= 0, balance
        assert balance["debt"] == 0, balance
        assert balance["allocated"] == balance["spent"] + balance["reserved"] + balance["remaining"]
        assert balance["spent"] == self.charged + beside + sum(map(self._ahead, self.open_spends))

    def check_answers(self) -> None:
        """What was answered in full, and paid for by its usage, stands in the conversation that goes on."""
        for each in self.delegations.values():
            messages = self.conversations[each.delegation_id]
            if not any(message.starts_anew for message in messages):
                whole = sum(turn.stop_reason in ("end_turn", "tool_use", "refusal") for turn in each.turns)
                assert sum(message.role == "assistant" for message in messages) >= whole, each

    def _ahead(self, spend: Spend) -> int:
        """How far the ledger is ahead of the delegation over a spend that is not struck out yet."""
        reserved = self.reservation(spend)
        if spend.charge is None:
            return reserved.charged
        return 0 if reserved.state == "COMMITTED" else -spend.charge


async def read(
    store: SqliteDelegationStore, in_ledger: Callable[[Callable[[Ledger], LedgerView]], Awaitable[LedgerView]]
) -> Books:
    """Read the books through an open store, and whatever runs an operation in the ledger."""
    found, cursor = await store.list("local", limit=100)
    assert not cursor
    ids = [each.delegation_id for each in found]
    return Books(
        delegations={each: await store.find("local", each) for each in ids},
        conversations={each: await store.conversation(each) for each in ids},
        spends=await store._file.run(lambda opened: {each: rows.spends(opened._db, each) for each in ids}),
        ledger=await in_ledger(LedgerView.of),
    )


async def look(environment: Environment, *, later_ms: int = 0) -> Books:
    """Read the files of a server that has gone.

    Args:
        environment: names the data directory.
        later_ms: how much later than now the ledger is to believe it is; it remembers that.
    """
    directory = Path(environment["BUDGET_DATA_DIR"])
    store = SqliteDelegationStore(directory)
    ledger = LedgerStore(directory / LEDGER_FILE, clock=lambda: wall_ms() + later_ms)

    async def in_ledger(operation: Callable[[Ledger], LedgerView]) -> LedgerView:
        return ledger.run(operation)

    try:
        return await read(store, in_ledger)
    finally:
        ledger.close()
        await store.aclose()


def check_kept(before: Books, now: Books, *, was_killed: bool) -> None:
    """What was finished stays as it was, and what was in flight is settled; after a kill, by what was written down."""
    for delegation_id, was in before.delegations.items():
        turns = {turn.number: turn for turn in now.delegations[delegation_id].turns}
        for turn in was.turns:
            if turn.charged is not None:
                kept = turns[turn.number]
                assert kept.tool_calls[: len(turn.tool_calls)] == turn.tool_calls
                assert kept.model_copy(update={"tool_calls": turn.tool_calls}) == turn
        unsettled = {spend.reservation_id for spend in now.spends[delegation_id]}
        for spend in before.spends[delegation_id]:
            if spend.reservation_id not in unsettled:
                _check_settled(spend, before, now, turns, was_killed=was_killed)


def _check_settled(
    spend: Spend, before: Books, now: Books, turns: Mapping[int, TurnRecord], *, was_killed: bool
) -> None:
    """A hold went back, or became the last turn; all else was charged, unless it surely was not spent."""
    reserved = now.reservation(spend)
    of_turns = {turn.reservation_id: turn for turn in turns.values() if turn.charged is not None}
    if reserved.state == "RELEASED":
        assert spend.reservation_id not in of_turns
        assert not was_killed or spend.is_hold or before.reservation(spend).state == "RELEASED"
        return
    assert reserved.state == "COMMITTED"
    if spend.action["kind"] == "tool.call":
        charges = [call.charged.amount for call in turns[spend.turn].tool_calls if call.charged is not None]
        assert reserved.charged == spend.bound
        assert spend.bound in charges
        return
    turn = of_turns[spend.reservation_id]
    assert turn.charged is not None
    assert turn.charged.amount == reserved.charged
    if was_killed:
        assert not spend.is_hold
        assert reserved.charged == (spend.bound if spend.charge is None else spend.charge)
        assert spend.charge is not None or turn.actual_source == "bound"


def check_not_asked_again(before: Books, requests: Sequence[Mapping[str, Any]]) -> None:
    """An answer that was written down is never asked for again: every later request goes on from it."""
    for delegation_id, messages in before.conversations.items():
        opening = messages[0].content if messages else None
        for request in requests:
            asked = request["messages"]
            if asked[0]["content"] == opening:
                assert asked[: len(messages)] == [message.wire() for message in messages], delegation_id
