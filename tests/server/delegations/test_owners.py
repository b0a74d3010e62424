"""Who owns a delegation, told without leases and clocks, by real processes that are really killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_server.delegations.workers import WorkerRegistry, may_have_orphans
from budget_tools.delegation.store import Outcome, Step
from server.delegations.making import TENANT, call, held, spend, started, stopped

pytestmark = pytest.mark.anyio

WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """Another process over the same directory."""

    def __init__(self, command: str, directory: Path, *names: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), command, str(directory), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def line(self) -> str:
        """Wait for a line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        """Leave nothing of it."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def workers() -> Iterator[ExitStack]:
    """Ends the processes of a test."""
    with ExitStack() as stack:
        yield stack


def worker(workers: ExitStack, command: str, directory: Path, *names: str) -> Worker:
    """Start a process and wait until it is ready."""
    made = Worker(command, directory, *names)
    workers.callback(made.close)
    assert made.line() == "ready"
    return made


def owner_files(directory: Path) -> list[Path]:
    """Give the owner files that there are."""
    return list((directory / "owners").glob("*"))


async def test_what_a_killed_process_had_in_flight_is_adopted(
    tmp_path: Path, store: SqliteDelegationStore, workers: ExitStack
) -> None:
    """Kill -9: its delegations are ours, with every spend as it was written; nothing is adopted while it lives."""
    killed = worker(workers, "own", tmp_path, "a", "b")
    assert not may_have_orphans(tmp_path)
    assert await store.orphans() == []

    killed.kill()
    assert may_have_orphans(tmp_path)
    orphans = await store.orphans()

    assert [orphan.delegation.delegation_id for orphan in orphans] == ["a", "b"]
    assert [orphan.delegation.status for orphan in orphans] == ["running", "running"]
    assert sorted(orphans[0].spends, key=lambda each: each.reservation_id) == [
        spend("a-charged", 7, charge=6, metadata={"model": "claude"}),
        spend("a-hold", 9, is_hold=True),
        spend("a-spend", 5),
    ]
    assert not may_have_orphans(tmp_path)
    assert await store.orphans() == []
    assert len(owner_files(tmp_path)) == 1
    await store.write("a", Step(struck=["a-spend", "a-charged", "a-hold"], outcome=Outcome(status="failed")))
    resumed = await store.resume(call("r"), "a", max_turns=None, budget_microcents=None)
    assert (resumed.is_new, resumed.spent_microcents) == (True, 6)


async def test_of_processes_that_start_together_one_adopts_each_orphan(tmp_path: Path, workers: ExitStack) -> None:
    """TakenOver twice, a spend would be settled twice."""
    names = [f"d{number}" for number in range(10)]
    worker(workers, "own", tmp_path, *names[:5]).kill()
    worker(workers, "own", tmp_path, *names[5:]).kill()
    adopters = [worker(workers, "adopt", tmp_path) for _ in range(4)]

    for each in adopters:
        each.go_on()

    assert sorted(name for each in adopters for name in each.line().split()) == names


async def test_an_adopter_that_dies_is_adopted_from(
    tmp_path: Path, store: SqliteDelegationStore, workers: ExitStack
) -> None:
    """Whatever happens on the way, somebody settles in the end."""
    worker(workers, "own", tmp_path, "a").kill()
    adopter = worker(workers, "adopt", tmp_path)
    adopter.go_on()
    assert adopter.line() == "a"
    assert await store.orphans() == []

    adopter.kill()

    assert [orphan.delegation.delegation_id for orphan in await store.orphans()] == ["a"]


async def test_an_adoption_that_nobody_hears_of_is_made_anew(
    tmp_path: Path, store: SqliteDelegationStore, other: SqliteDelegationStore, workers: ExitStack
) -> None:
    """A caller that is cut off: its process would own what it does not know of, and settle nothing."""
    worker(workers, "own", tmp_path, "a").kill()
    async with held(other):
        adopting = asyncio.ensure_future(store.orphans())
        await asyncio.sleep(0)  # it is handed over
        adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting

    assert may_have_orphans(tmp_path)
    assert [orphan.delegation.delegation_id for orphan in await other.orphans()] == ["a"]


async def test_what_a_process_still_owns_when_it_closes_are_orphans(
    tmp_path: Path, store: SqliteDelegationStore, workers: ExitStack
) -> None:
    """aclose: the owner file stays as a sign, though the process may live on."""
    closed = worker(workers, "own", tmp_path, "a")
    closed.go_on()
    assert closed.line() == "closed"

    assert may_have_orphans(tmp_path)
    assert [orphan.delegation.delegation_id for orphan in await store.orphans()] == ["a"]


async def test_a_process_that_leaves_nothing_leaves_no_sign(tmp_path: Path) -> None:
    """Nor does one that only looked become an owner."""
    store = SqliteDelegationStore(tmp_path)
    assert await store.orphans() == []
    assert (await store.list(TENANT))[0] == []
    assert not (tmp_path / "owners").exists()
    assert not may_have_orphans(tmp_path)
    await stopped(store, "a")
    assert len(owner_files(tmp_path)) == 1

    await store.aclose()
    await store.aclose()

    assert owner_files(tmp_path) == []


async def test_what_was_asked_to_stop_before_its_owner_died_is_asked_of_its_adopter(
    tmp_path: Path, store: SqliteDelegationStore, workers: ExitStack
) -> None:
    """The wish is the delegation's, not the process's."""
    killed = worker(workers, "own", tmp_path, "a")
    await store.request_cancel(TENANT, "a")
    killed.kill()
    await store.orphans()

    assert list(await store.cancel_requests()) == ["a"]


async def test_those_of_dead_owners_take_no_place(tmp_path: Path, workers: ExitStack) -> None:
    """A limit on what runs counts what runs."""
    store = SqliteDelegationStore(tmp_path, max_running=2)
    killed = worker(workers, "own", tmp_path, "a", "b")
    killed.kill()

    assert (await started(store, "c")).is_new
    await store.aclose()


def test_an_owner_is_never_taken_for_dead_once_it_has_its_id(tmp_path: Path) -> None:
    """Between making its file and locking it, it looks dead to others, who may remove the file."""
    stop = threading.Event()
    watcher = WorkerRegistry(tmp_path)

    def bury() -> None:
        while not stop.is_set():
            for owner_id in watcher.expired():
                watcher.remove(owner_id)

    burying = [threading.Thread(target=bury) for _ in range(2)]
    for thread in burying:
        thread.start()
    try:
        for _ in range(200):
            owner = WorkerRegistry(tmp_path)
            owner_id = owner.register()
            watcher.remove(owner_id)  # as one does who asked before it was locked
            assert watcher.is_alive(owner_id)
            assert (tmp_path / "owners" / owner_id).exists()
            owner.close(leaves_orphans=False)
            assert not watcher.is_alive(owner_id)
    finally:
        stop.set()
        for thread in burying:
            thread.join()


def test_those_who_ask_at_once_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    """Whether an owner lives is asked with a lock, too."""
    owner = WorkerRegistry(tmp_path)
    owner.register()
    owner_id = owner.own_id
    owner.close(leaves_orphans=True)
    wrong: list[bool] = []

    def ask() -> None:
        asking = WorkerRegistry(tmp_path)
        wrong.extend(True for _ in range(2_000) if asking.is_alive(owner_id))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert wrong == []


def test_what_is_no_owner_file_is_left_alone(tmp_path: Path) -> None:
    """A file manager leaves its own where it has been."""
    (tmp_path / "owners").mkdir()
    (tmp_path / "owners" / ".DS_Store").write_text("x")
    (tmp_path / "owners" / "folder").mkdir()

    assert not may_have_orphans(tmp_path)
    assert WorkerRegistry(tmp_path).expired() == []


SPENDS_AFTER: dict[str, list[list[int | None]]] = {
    "running": [[], [None]],
    "departed": [[None], [3]],
    "charged": [[3], []],
    "struck": [[]],
}
"""The charges of what may be in flight after the last step that was acknowledged: as it said, or one step on."""


async def test_nothing_acknowledged_is_lost_wherever_a_process_is_killed(tmp_path: Path) -> None:
    """Kills at moments of chance: every start and spend that was answered is adopted as it was."""
    rng = random.Random(7)  # noqa: S311 - not a secret
    for _ in range(12):
        killed = Worker("work", tmp_path)
        lines = [killed.line() for _ in range(rng.randrange(1, 12))]
        killed.process.send_signal(signal.SIGKILL)
        assert killed.process.stdout is not None
        lines += killed.process.stdout.read().splitlines()
        killed.close()
        store = SqliteDelegationStore(tmp_path)
        orphans = {orphan.delegation.delegation_id: orphan for orphan in await store.orphans()}

        assert {line.split()[1] for line in lines} <= set(orphans)
        state, name = lines[-1].split()
        charges = [each.charge for each in orphans[name].spends]
        assert charges in SPENDS_AFTER[state]
        is_charged = state in ("charged", "struck") or charges == [3]
        assert orphans[name].delegation.spent_microcents == (3 if is_charged else 0)
        for each in orphans:
            await store.write(each, Step(outcome=Outcome(status="failed")))
        await store.aclose()
        assert not may_have_orphans(tmp_path)
