"""Several processes on one ledger file: they share it, wait for each other, and may die at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from budget_server.authority.budgets import allocate, set_period
from contract.answers import assert_refused, body_of
from contract.harness import LEAF, NOON_MS, ROOT, Clock
from contract.local import EmbeddedAuthority, check_invariants, opened
from hosting import in_time

WORKER = Path(__file__).with_name("worker.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers; whatever is still there at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start_worker(command: str, path: Path, *arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(WORKER), command, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start_worker
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]") -> str:
    """Read a line that the worker says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def now_ms() -> int:
    """The clock that workers have."""
    return time.time_ns() // 1_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[EmbeddedAuthority]:
    """An authority that shares its file with workers."""
    with opened(tmp_path / "ledger.db", Clock(now_ms())) as authority:
        yield authority


@pytest.mark.parametrize("limit", [300])
def test_four_processes_are_granted_exactly_what_there_is(ledger: EmbeddedAuthority, start: Start, limit: int) -> None:
    """Cycles v0, ATOMICITY: 600 tries on a budget for 300; every try gets an answer, none an error."""
    ledger.set_budget(ROOT, limit)
    ledger.set_budget(LEAF, 2 * limit)
    workers = [start("try_many", ledger.path, name, 150) for name in "abcd"]
    assert [line_of(worker) for worker in workers] == ["ready"] * 4

    answers = [worker.communicate("go\n", timeout=30)[0].split() for worker in workers]

    statuses = [status for answer in answers for status in answer]
    assert len(statuses) == 600
    assert sorted(statuses) == ["200"] * limit + ["409"] * (600 - limit)
    assert ledger.sql("SELECT remaining, reserved FROM budgets WHERE scope = ?", ROOT) == [(0, limit)]


def test_of_two_processes_that_settle_one_reservation_one_does(ledger: EmbeddedAuthority, start: Start) -> None:
    """Cycles v0, RESERVATION_FINALIZED."""
    ledger.set_budget(ROOT, 100)
    reservation_id = "contested"
    ledger.sql(
        "INSERT INTO reservations (reservation_id, tenant, state, unit, estimate, scope_path, affected_scopes,"
        " budgeted_scopes, subject, action, idempotency_key, overage_policy, created_at_ms, expires_at_ms, grace_ms,"
        " extensions_left) VALUES (?, 'acme', 'ACTIVE', 'TOKENS', 0, 'tenant:acme', '[]', '[\"tenant:acme\"]', '{}',"
        " '{}', 'k', 'ALLOW_IF_AVAILABLE', 0, ?, 0, 0)",
        reservation_id,
        2**60,
    )
    workers = [start("race", ledger.path, name, reservation_id) for name in "ab"]
    assert [line_of(worker) for worker in workers] == ["ready"] * 2

    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()

    assert sorted(line_of(worker) for worker in workers) == ["200", "409"]
    assert ledger.sql("SELECT spent FROM budgets") == [(7,)]


@pytest.mark.anyio
async def test_of_many_processes_that_notice_a_midnight_one_heeds_it(tmp_path: Path, start: Start) -> None:
    """A period rolls over exactly once, whichever process comes first."""
    clock = Clock(NOON_MS)
    with opened(tmp_path / "ledger.db", clock) as ledger:
        ledger.run(lambda opened: allocate(opened.db, scope=ROOT, tenant="acme", unit="TOKENS", amount=100))
        ends_ms = ledger.run(
            lambda opened: set_period(
                opened.db, scope=ROOT, unit="TOKENS", period="day", time_zone="UTC", now_ms=opened.now_ms
            )
        ).period_end_ms
        assert ends_ms is not None
        await ledger.event(60)
        workers = [start("look", ledger.path, NOON_MS, ends_ms) for _ in range(6)]
        assert [line_of(worker) for worker in workers] == ["ready"] * 6

        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()

        assert [line_of(worker) for worker in workers] == ["done"] * 6
        assert ledger.sql("SELECT end_ms, spent FROM ended_periods") == [(ends_ms, 60)]
        assert await ledger.amounts() == "100/0/0/0"


@pytest.mark.anyio
async def test_a_process_that_was_stopped_in_the_middle_costs_an_answer_not_a_hang(
    tmp_path: Path, start: Start
) -> None:
    """Every wait has a deadline: 503 while it is stopped, and all is well once it goes on."""
    with opened(tmp_path / "ledger.db", Clock(now_ms()), lock_deadline_seconds=1) as ledger:
        ledger.set_budget(ROOT, 100)
        worker = start("stall", ledger.path)
        assert line_of(worker) == "holding"
        await anyio.to_thread.run_sync(os.waitpid, worker.pid, os.WUNTRACED)

        with in_time(5):
            refused = await ledger.reserve(10, key="k")
        os.kill(worker.pid, signal.SIGCONT)
        assert line_of(worker) == "done"

        body = assert_refused(refused, 503, "INTERNAL_ERROR")
        assert "another process" in body["message"]
        assert (await ledger.reserve(10, key="k")).status == 200
        assert await ledger.amounts() == "89/10/1/0"


@pytest.mark.anyio
async def test_a_process_that_is_killed_in_the_middle_leaves_no_trace_and_no_lock(
    ledger: EmbeddedAuthority, start: Start
) -> None:
    """Between BEGIN and COMMIT there is nothing; the kernel drops the locks of the dead."""
    ledger.set_budget(ROOT, 100)
    worker = start("stall", ledger.path)
    assert line_of(worker) == "holding"
    worker.kill()
    worker.wait(10)

    assert (await ledger.reserve(10)).status == 200
    assert await ledger.amounts() == "90/10/0/0"


@pytest.mark.anyio
async def test_what_was_acknowledged_survives_being_killed_at_any_moment(tmp_path: Path, start: Start) -> None:
    """An answer given is an answer kept: 250 kills in streams of operations, each followed by a new process."""
    path = tmp_path / "ledger.db"
    with opened(path, Clock(now_ms())) as authority:
        authority.set_budget(ROOT, 10**9)
        authority.set_budget(LEAF, 10**9)
    worker = start("be_killed", path, 250, 20_260, 10)

    said, _ = worker.communicate(timeout=40)

    assert worker.returncode == 0
    lines = [line.split() for line in said.splitlines()]
    kills = [line for line in lines if line[0] == "killed"]
    assert len(kills) >= 20
    acknowledged: dict[str, str] = {}
    keys: dict[str, str] = {}
    for state, reservation_id, key in (line for line in lines if line[0] != "killed"):
        acknowledged[reservation_id] = state
        keys[key] = reservation_id
    assert len(acknowledged) > 100
    with opened(path, Clock(now_ms())) as authority:
        authority.run(check_invariants)
        states = dict(authority.sql("SELECT reservation_id, state FROM reservations"))
        for reservation_id, state in acknowledged.items():
            # What was settled is settled so; the last operation before a kill may have been made and not acknowledged.
            assert states[reservation_id] == state or state == "ACTIVE"
        unheard = [reservation_id for reservation_id in states if reservation_id not in acknowledged]
        assert len(unheard) <= len(kills)
        ahead = sum(state == "ACTIVE" != states[rid] for rid, state in acknowledged.items())
        assert ahead <= len(kills)
        for key, reservation_id in list(keys.items())[::25]:
            again = await authority.reserve(5, {"tenant": "acme", "agent": "bot"}, key=key, ttl_ms=3_600_000)
            assert body_of(again)["reservation_id"] == reservation_id
        assert authority.sql("PRAGMA integrity_check") == [("ok",)]
