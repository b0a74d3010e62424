"""The ledger's thread: groups, neighbours that fail, and its end."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import apsw
import pytest

from budget_server.authority.budgets import allocate_first
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import LedgerUnavailableError, Refusal
from budget_server.authority.store import LedgerStore
from budget_server.database.writer import MAX_GROUP, Writer
from contract.harness import Clock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LedgerStore]:
    """A ledger with one budget in it."""
    store = LedgerStore(tmp_path / "ledger.db", clock=Clock())
    store.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="TOKENS", amount=100))
    yield store
    store.close()


@pytest.fixture
def writer(store: LedgerStore) -> Iterator[Writer[Ledger]]:
    """A thread over it."""
    writer = Writer(store)
    yield writer
    writer.close()


def spend(ledger: Ledger) -> int:
    """Move one unit and give the number of units spent so far."""
    ledger.db.execute("UPDATE budgets SET remaining = remaining - 1, spent = spent + 1")
    return spent(ledger)


def spent(ledger: Ledger) -> int:
    """Read the number of units spent."""
    count = ledger.db.execute("SELECT spent FROM budgets").get
    assert isinstance(count, int)
    return count


def refuse(ledger: Ledger) -> int:
    """Move one unit, then refuse."""
    spend(ledger)
    raise Refusal(409, "BUDGET_EXCEEDED", "No.")


def stumble(ledger: Ledger) -> int:
    """Move one unit, then hit a bug of ours."""
    spend(ledger)
    raise KeyError("a bug")


def break_a_rule(ledger: Ledger) -> int:
    """Move one unit, then ask the table for what its CHECK forbids."""
    spend(ledger)
    ledger.db.execute("UPDATE budgets SET spent = -1")
    return 0


def misspell(ledger: Ledger) -> int:
    """Move one unit, then say something that is no SQL."""
    spend(ledger)
    ledger.db.execute("UPDTE budgets SET spent = 1")
    return 0


def overflow(ledger: Ledger) -> int:
    """Move one unit, then bind more than 64 bits."""
    spend(ledger)
    ledger.db.execute("UPDATE budgets SET allocated = ?", (2**64,))
    return 0


class Held:
    """Keeps the thread busy, so that what is handed over meanwhile forms one group."""

    def __init__(self, writer: Writer[Ledger]) -> None:
        self._entered, self._go_on = threading.Event(), threading.Event()
        self.future = writer.submit(self._wait)
        assert self._entered.wait(5)

    def _wait(self, _: Ledger) -> None:
        self._entered.set()
        assert self._go_on.wait(5)

    def release(self) -> None:
        """Let the thread go on."""
        self._go_on.set()


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (refuse, Refusal),
        (stumble, KeyError),
        (break_a_rule, apsw.ConstraintError),
        (misspell, apsw.SQLError),
        (overflow, OverflowError),
    ],
)
def test_an_operation_that_fails_undoes_itself_and_none_of_its_group(
    writer: Writer[Ledger], operation: object, error: type[Exception]
) -> None:
    """Group commit: a savepoint each; each caller gets what is its own."""
    assert callable(operation)
    held = Held(writer)
    futures: list[Future[int]] = [writer.submit(each) for each in (spend, operation, spend)]
    held.release()

    assert futures[0].result(5) == 1
    with pytest.raises(error):
        futures[1].result(5)
    assert futures[2].result(5) == 2
    assert writer.submit(spent).result(5) == 2


def test_what_waits_together_is_written_together(store: LedgerStore, writer: Writer[Ledger]) -> None:
    """Group commit: one flush for all that came while the last one was on its way, up to a limit."""
    commits: list[int] = []

    def count() -> bool:
        commits.append(1)
        return False

    writer.submit(lambda ledger: ledger.db.set_commit_hook(count)).result(5)
    commits.clear()
    held = Held(writer)
    futures = [writer.submit(spend) for _ in range(MAX_GROUP + 10)]
    held.release()

    assert [future.result(5) for future in futures] == list(range(1, MAX_GROUP + 11))
    writer.submit(lambda ledger: ledger.db.set_commit_hook(None)).result(5)
    assert len(commits) <= 4
    assert store.path.exists()


def test_a_future_that_was_cancelled_in_time_is_not_run(writer: Writer[Ledger]) -> None:
    """concurrent.futures: cancelled before it ran; the thread goes on for the others."""
    held = Held(writer)
    futures = [writer.submit(spend) for _ in range(3)]
    assert futures[1].cancel()
    assert not held.future.cancel()
    held.release()

    assert [futures[0].result(5), futures[2].result(5)] == [1, 2]
    with pytest.raises(CancelledError):
        futures[1].result(5)


def test_closing_finishes_what_was_handed_over(store: LedgerStore, writer: Writer[Ledger]) -> None:
    """Nothing that was accepted is dropped."""
    held = Held(writer)
    futures = [writer.submit(spend) for _ in range(2 * MAX_GROUP)]
    closing = threading.Thread(target=writer.close)
    closing.start()
    held.release()
    closing.join(5)

    assert not closing.is_alive()
    assert [future.result(0) for future in futures] == list(range(1, 2 * MAX_GROUP + 1))
    with LedgerReopened(store) as reopened:
        assert reopened.run(spent) == 2 * MAX_GROUP


def test_after_closing_every_call_is_answered(store: LedgerStore, writer: Writer[Ledger]) -> None:
    """A call that comes too late gets an answer at once, and nothing is written; closing again does nothing."""
    writer.close()
    writer.close()

    with pytest.raises(LedgerUnavailableError, match="closed"):
        writer.submit(spend).result(0)
    with pytest.raises(LedgerUnavailableError, match="closed"):
        store.run(spend)
    store.close()


def test_handing_over_while_closing_is_either_done_or_refused(store: LedgerStore) -> None:
    """No future is left without an end, however the two threads meet."""
    writer = Writer(store)
    futures: list[Future[int]] = []
    closing = threading.Thread(target=writer.close)
    for number in range(2_000):
        if number == 200:
            closing.start()
        futures.append(writer.submit(spent))
    closing.join(5)

    outcomes = [future.exception(5) for future in futures]

    assert outcomes[0] is None
    assert all(outcome is None or isinstance(outcome, LedgerUnavailableError) for outcome in outcomes)


class LedgerReopened:
    """A closed store's file, opened again for a look."""

    def __init__(self, store: LedgerStore) -> None:
        self._path = store.path

    def __enter__(self) -> LedgerStore:
        self._store = LedgerStore(self._path, clock=Clock())
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()
