"""What a delegation's steps leave behind, and who may write them."""

from pathlib import Path

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.core.money import Money
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import Message, Outcome, Step
from budget_tools.spends.records import LimitReachedError, Spend
from contract.harness import Clock
from server.delegations.making import TENANT, spend, started, stopped

pytestmark = pytest.mark.anyio


async def in_flight(directory: Path, store: SqliteDelegationStore) -> list[Spend]:
    """Let the store's process end, and give what it leaves in flight."""
    await store.aclose()
    other = SqliteDelegationStore(directory)
    spends = [spend for orphan in await other.orphans() for spend in orphan.spends]
    await other.aclose()
    return spends


async def test_messages_come_back_in_order_from_where_the_conversation_starts_anew(
    store: SqliteDelegationStore,
) -> None:
    """DelegationStore.conversation; what stands before is kept, and no longer sent."""
    first = [Message(role="user", content="Sort."), Message(role="assistant", content=[{"type": "text", "text": "…"}])]
    again = [
        Message(role="user", content="Go on from here.", starts_anew=True),
        Message(
            role="assistant",
            content=[{"type": "tool_use", "input": {"n": 2**70}}, {"type": "text", "text": "\ud83d\x00"}],
        ),
    ]
    await started(store, "d")
    await started(store, "e")
    await store.write("d", Step(messages=first))
    await store.write("e", Step(messages=[Message(role="user", content="Apart.")]))
    assert await store.conversation("d") == first
    await store.write("d", Step(messages=again[:1]))
    await store.write("d", Step(messages=again[1:]))

    assert await store.conversation("d") == again
    assert [message.content for message in await store.conversation("e")] == ["Apart."]
    assert await store.conversation("unknown") == []


async def test_a_message_of_megabytes_is_kept(store: SqliteDelegationStore) -> None:
    """A picture that a tool gave, several of them."""
    picture = [{"type": "image", "source": {"type": "base64", "data": "/9j/" * 1_000_000}}]
    await started(store, "d")

    await store.write("d", Step(messages=[Message(role="user", content=picture)] * 3))

    assert [message.content for message in await store.conversation("d")] == [picture] * 3


async def test_a_turn_replaces_what_was_stored_under_its_number(store: SqliteDelegationStore) -> None:
    """Step.turn: first what it reserved, then what it was charged."""
    await started(store, "d")
    for number in (2, 1):
        await store.write("d", Step(turn=TurnRecord(number=number, model="claude", reserved=Money.microcents(9))))

    settled = TurnRecord(number=1, model="claude", reserved=Money.microcents(9), charged=Money.microcents(4))
    await store.write("d", Step(turn=settled))

    turns = (await store.find(TENANT, "d")).turns
    assert [turn.number for turn in turns] == [1, 2]
    assert turns[0] == settled


async def test_a_step_changes_what_it_names_and_nothing_else(store: SqliteDelegationStore, clock: Clock) -> None:
    """Step: None is no change."""
    await started(store, "d")
    await store.write("d", Step(text="Words.", model="cheaper", spent_microcents=7))
    clock.now_ms += 1_000
    await store.write("d", Step())
    clock.now_ms -= 5_000
    await store.write("d", Step(text=""))

    found = await store.find(TENANT, "d")

    assert (found.text, found.model, found.spent_microcents) == ("", "cheaper", 7)
    assert found.updated_at_ms == found.created_at_ms + 1_000


async def test_all_of_a_step_is_stored_or_none(store: SqliteDelegationStore) -> None:
    """DelegationStore: every method is one transaction."""
    await started(store, "d")
    impossible = Step(text="Words.", messages=[Message(role="user", content="x")], spent_microcents=-1)

    with pytest.raises(Exception, match="CHECK constraint"):
        await store.write("d", impossible)

    assert (await store.find(TENANT, "d")).text == ""
    assert await store.conversation("d") == []


async def test_only_the_owner_of_what_runs_writes(store: SqliteDelegationStore, other: SqliteDelegationStore) -> None:
    """Anything else is a bug of ours, and changes nothing."""
    await started(store, "d", budget_microcents=10)
    await stopped(store, "s")
    await started(other, "own")

    for each, name in ((other, "d"), (store, "s"), (store, "unknown")):
        with pytest.raises(AssertionError):
            await each.write(name, Step(text="Intruder."))
        with pytest.raises(AssertionError):
            await each.mark_in_flight(name, spend("r", 1))

    assert (await store.find(TENANT, "d")).text == ""
    assert await store.left_microcents("d") == 10


async def test_spends_are_there_until_they_are_struck_out(tmp_path: Path, store: SqliteDelegationStore) -> None:
    """Written before they may happen, with all that settling them needs; a hold becomes the spend it was held for."""
    hold = spend("a", 5, is_hold=True)
    whole = spend(
        "a", 4, turn=2, metadata={"model": "\ud800"}, subject={"tenant": TENANT, "dimensions": {"run_id": "r"}}
    )
    tokens = spend("b", 7, turn=3, unit="TOKENS")
    await started(store, "d")
    await store.mark_in_flight("d", hold)
    await store.mark_in_flight("d", spend("gone", 1))
    await store.mark_in_flight("d", whole, struck=["gone"])
    await store.mark_in_flight("d", tokens)
    await store.mark_in_flight("d", spend("settled", 1))
    await store.write("d", Step(charges={"b": 6}, struck=["settled", "never there"]))

    left = await in_flight(tmp_path, store)

    assert left == [whole, spend("b", 7, turn=3, unit="TOKENS", charge=6)]


async def test_a_refused_spend_strikes_nothing_out(tmp_path: Path, store: SqliteDelegationStore) -> None:
    """LimitReachedError: nothing was written."""
    await started(store, "d", budget_microcents=10)
    await store.mark_in_flight("d", spend("a", 3))
    await store.mark_in_flight("d", spend("b", 4, is_hold=True))

    with pytest.raises(LimitReachedError) as refusal:
        await store.mark_in_flight("d", spend("b", 11), struck=["a"])

    assert refusal.value.left_microcents == 10
    assert await store.left_microcents("d") == 3
    assert await in_flight(tmp_path, store) == [spend("a", 3), spend("b", 4, is_hold=True)]


async def test_somebody_elses_wish_to_stop_reaches_the_owner(
    store: SqliteDelegationStore, other: SqliteDelegationStore
) -> None:
    """request_cancel: of the owner's own only, until it stopped, and nothing where it does not run."""
    await started(store, "a")
    await started(store, "b")
    await started(other, "c")
    await stopped(store, "s")
    assert list(await store.cancel_requests()) == []

    for name in ("a", "a", "c", "s"):
        await other.request_cancel(TENANT, name)

    assert list(await store.cancel_requests()) == ["a"]
    assert list(await other.cancel_requests()) == ["c"]
    await store.write("a", Step(outcome=Outcome(status="cancelled")))
    assert list(await store.cancel_requests()) == []
    assert (await store.find(TENANT, "s")).status == "failed"
