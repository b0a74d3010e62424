"""Whole servers, three at a time over one data directory, killed at counted places: nothing is lost, nothing doubled.

Their hosts reserve, commit, release, record usage and delegate, all at once, and each server is killed: by a signal at
some moment, just before or after a transaction of its own, at one step of SQLite's machine, or, where the authority is
remote, at one line of the code that keeps what it has not answered. The servers of the next round are asked again for
what the killed ones did not answer, in the midst of being killed themselves. With the embedded ledger a day ends while
they work; a remote authority loses requests and answers, and some hosts never ask again for what they have spent.

``SERVER_KILLS`` says how many kills there are with each kind of authority, ``SERVER_SEED`` repeats what is done and
where it dies.
"""

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from budget_server.demo.scripted_claude import Answer, ToolCall, Turn
from budget_server.maintenance.consistency import inspect
from faults.nursery import PATIENCE_SECONDS, Host, Nursery, Point
from faults.places import AT_A_LINE, AT_A_STEP, IN_THE_JOURNAL, IN_THE_LEDGER
from faults.stage import ALLOCATED, Authority, Kind, Stage, open_stage
from faults.wall_clock import WallClock
from hosting import GoneError
from tools.delegation.harness import kept

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("SERVER_KILLS", "24"))
SEED = int(os.environ.get("SERVER_SEED", "0")) or secrets.randbelow(2**32)

SERVERS = 3
ROUNDS = 4
"""Of kills, in one data directory; after them all must end well."""

ERRANDS = 6
"""New ones for each server."""

SIGNAL, AFTERWARDS = "by a signal", "once all was done"

MISHAPS = ("503", "lost", "a gateway's page", "hang", "lost in silence")
"""What becomes of some settlements on their way to a remote authority, or on the way back."""

PATIENT_SECONDS = 4
"""How long a server waits for an answer: longer than a full machine needs, and than most that are killed live."""

LEASE_SECONDS = 600
DAY_NS = 86_400 * 10**9
HELD_USD = "0.0009"

SCRIPT: Sequence[Answer] = [
    *(Turn(text="Step.", tool_calls=(ToolCall("shed__count", {"step": 1}),)),) * 2,
    Turn(text="Done."),
] * 200
"""Delegations take turns at it, so that each ends after a few turns."""

SETTLING = frozenset({"commit_usage", "record_usage"})
NO_ANSWER = "AUTHORITY_UNAVAILABLE: "
"""How a refusal begins where the authority, or the way to it, gave no definite answer."""

Purpose = Literal["commit", "release", "record", "delegate"]


@dataclass(kw_only=True)
class Errand:
    """What a host wants done, whichever server does it in the end.

    Attributes:
        key: of its last call; one that gets no answer is made again with the same.
        purpose: what it is.
        microcents: what is spent.
        is_forgetful: whether the host never asks again for a settlement that it has asked for.
        reservation_id: what was reserved for it.
        is_settling: whether a server was asked to settle it.
        is_done: whether a server said that it is done.
    """

    key: str
    purpose: Purpose
    microcents: int = 0
    is_forgetful: bool = False
    reservation_id: str = ""
    is_settling: bool = False
    is_done: bool = False

    @property
    def is_open(self) -> bool:
        """Whether its host will still ask for it."""
        return not (self.is_done or (self.is_forgetful and self.is_settling))

    @property
    def usd(self) -> str:
        """What is spent, in dollars."""
        return f"0.{self.microcents:08}"

    @property
    def opening(self) -> tuple[str, dict[str, object]]:
        """The call that begins it, or all of it."""
        match self.purpose:
            case "record":
                return "record_usage", {"usd": self.usd, "idempotency_key": self.key}
            case "delegate":
                return "delegate_to_claude", {
                    "task": f"Do {self.key}.", "tools": ["shed__*"], "max_output_tokens": 64, "max_turns": 100,
                    "idempotency_key": self.key, "wait_seconds": 0,
                }  # fmt: skip
            case _:
                return "reserve_budget", {
                    "usd": HELD_USD, "ttl_seconds": LEASE_SECONDS, "idempotency_key": f"{self.key}-hold",
                }  # fmt: skip

    @property
    def closing(self) -> tuple[str, dict[str, object]]:
        """The call that settles what was reserved for it."""
        settled: dict[str, object] = {"reservation_id": self.reservation_id, "idempotency_key": self.key}
        if self.purpose == "release":
            return "release_budget", settled
        return "commit_usage", {**settled, "usd": self.usd}


async def run(host: Host, errands: Sequence[Errand]) -> None:
    """Have a server do all of them, as far as it lives, each beside the others."""
    unopened = [errand for errand in errands if not errand.reservation_id]
    for told, errand in await _all(host, [(errand, *errand.opening) for errand in unopened]):
        if errand.purpose == "record":
            assert (told["decision"], told["charged"]["amount"]) == ("ALLOW", errand.microcents)
            errand.is_done = True
        elif errand.purpose != "delegate":
            assert told["decision"] == "ALLOW", told
            errand.reservation_id = told["reservation_id"]
    held = [errand for errand in errands if errand.reservation_id]
    for told, errand in await _all(host, [(errand, *errand.closing) for errand in held]):
        assert told["status"] == ("COMMITTED" if errand.purpose == "commit" else "RELEASED")
        errand.is_done = True
    for errand in errands:
        if errand.purpose == "delegate":
            await _complete(host, errand)


async def _all(
    host: Host, calls: Sequence[tuple[Errand, str, dict[str, object]]]
) -> list[tuple[dict[str, Any], Errand]]:
    """Make calls all at once, and give the successes that came."""
    begun: list[tuple[int, Errand]] = []
    answered: list[tuple[dict[str, Any], Errand]] = []
    with suppress(GoneError):  # what it answered before stands in its output
        for errand, tool, arguments in calls:
            errand.is_settling = tool in SETTLING
            begun.append((host.begin(tool, **arguments), errand))
    for call_id, errand in begun:
        with suppress(GoneError):
            result = await host.result(call_id)
            if not result.get("isError"):
                answered.append((result["structuredContent"], errand))
                continue
            assert result["content"][0]["text"].startswith(NO_ANSWER), result
    return answered


async def _complete(host: Host, errand: Errand) -> None:
    """Have a delegation come to its end, whoever began it."""
    tool, arguments = errand.opening
    try:
        told = await host.call(tool, **arguments)
        while told["status"] != "completed":
            if told["status"] == "running":
                told = await host.call("delegation_status", delegation_id=told["delegation_id"], wait_seconds=10)
            else:
                assert told["resumable"], told
                told = await host.call(tool, resume=told["delegation_id"], wait_seconds=0)
    except GoneError:
        return
    errand.is_done = True


@dataclass(kw_only=True)
class Life:
    """One data directory, its servers, and all that their hosts ever wanted of them."""

    name: str
    stage: Stage
    rng: random.Random
    found: Counter[str]
    errands: list[Errand] = field(default_factory=list[Errand])
    clock: WallClock | None = None
    midnight_ns: int = field(default_factory=lambda: -(-time.time_ns() // DAY_NS) * DAY_NS)
    """By the wall clock: the next one when this life began, also where that passes meanwhile."""

    async def live(self) -> None:
        """Let servers work and be killed, then one work that is not; and compare the books."""
        self._set_clock(60)
        for number in range(ROUNDS):
            if number == ROUNDS // 2:
                self._set_clock(self.rng.uniform(0.02, 0.3))
            await self._play_round(number)
            self._check_answered()
        if self.stage.kind == "remote":
            self.stage.proxy.behave()
        last = self._start(None)
        with anyio.fail_after(PATIENCE_SECONDS):
            while left := [errand for errand in self.errands if errand.is_open]:
                await run(last, left)
        await self.stage.journal_is_empty()
        await last.leave()
        await self._check_all()

    def _set_clock(self, seconds_before_midnight: float) -> None:
        if self.clock is not None:
            self.clock.jump((self.midnight_ns - time.time_ns()) / 10**9 - seconds_before_midnight)

    async def _play_round(self, number: int) -> None:
        left = [errand for errand in self.errands if errand.is_open]
        self.found["asked again"] += len(left)
        if self.stage.kind == "remote":
            for operation in ("commit", "event"):
                self.stage.proxy.befall(operation, self.rng.choice(MISHAPS), times=self.rng.randint(0, 3))
        async with anyio.create_task_group() as tasks:
            for server in range(SERVERS):
                new = [self._errand(f"{self.name}-{number}-{server}-{each}", each) for each in range(ERRANDS)]
                self.errands += new
                tasks.start_soon(self._be_killed, [*left[server::SERVERS], *new])

    def _errand(self, key: str, number: int) -> Errand:
        if number == 0:
            return Errand(key=key, purpose="delegate")
        purposes: tuple[Purpose, ...] = ("commit", "commit", "release", "record")
        return Errand(
            key=key,
            purpose=self.rng.choice(purposes),
            microcents=self.rng.randint(1, 90_000),
            is_forgetful=self.stage.kind == "remote" and self.rng.random() < 0.5,
        )

    async def _be_killed(self, errands: Sequence[Errand]) -> None:
        place = self.rng.choice((SIGNAL, *(IN_THE_LEDGER if self.stage.kind == "embedded" else IN_THE_JOURNAL)))
        exponent = {AT_A_STEP: (3.0, 5.5), AT_A_LINE: (1.0, 3.6)}.get(place, (0.0, 1.9))
        nth, delay_seconds = int(10 ** self.rng.uniform(*exponent)), self.rng.uniform(0, 0.8)
        host = self._start(None if place == SIGNAL else Point(name=place, nth=nth))
        if place == SIGNAL:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, host, errands)
                await anyio.sleep(delay_seconds)
                await host.kill()
            self.found[SIGNAL] += 1
            return
        await run(host, errands)
        self.found[place if host.is_gone else AFTERWARDS] += 1
        await host.kill()

    def _start(self, point: Point | None) -> Host:
        if self.clock is None:
            return self.stage.start(point, patience_seconds=PATIENT_SECONDS)
        return self.stage.start(
            point,
            patience_seconds=PATIENT_SECONDS,
            clock=self.clock.path,
            BUDGET_PERIOD="day",
            BUDGET_TIME_ZONE="UTC",
        )

    def _check_answered(self) -> None:
        """What a host was told has been done is so."""
        found = self.stage.settlements()
        for errand in self.errands:
            if errand.is_done and errand.reservation_id:
                assert found[errand.reservation_id] == _expected(errand), errand

    async def _check_all(self) -> None:
        """All that was wanted is in the books once, nothing else is, and what a host forgot was settled without it."""
        self._check_answered()
        arrived = self._arrived()
        forgotten = [errand for errand in self.errands if not errand.is_done]
        self.found["settled though forgotten"] += sum(errand.key in arrived for errand in forgotten)
        settled = [errand for errand in self.errands if errand.is_done or errand.key in arrived]
        states = self.stage.settlements()
        for errand in self.errands:
            if errand.reservation_id:
                was_settled = states[errand.reservation_id][0] == "COMMITTED"
                assert was_settled == (errand.purpose == "commit" and errand in settled), errand
        held = [errand.reservation_id for errand in self.errands if errand.reservation_id]
        assert len(set(held)) == len(held)
        records = [errand.microcents for errand in settled if errand.purpose == "record"]
        assert Counter(records) <= Counter(self.stage.events())  # a turn's lease may have run out before it was settled
        delegations = await kept(self.stage.data_directory, self.stage.tenant)
        assert len(delegations) == sum(errand.purpose == "delegate" for errand in self.errands)
        spent = sum(errand.microcents for errand in settled if errand.purpose in ("commit", "record"))
        spent += sum(each.spent_microcents for each in delegations)
        self.stage.let_leases_run_out()
        balance = self.stage.balance()
        assert (self.stage.spent_in_all_periods(), balance["reserved"]) == (spent, 0)
        assert balance["remaining"] == ALLOCATED - balance["spent"] >= 0
        if self.stage.kind == "embedded":
            assert inspect(self.stage.data_directory, None).findings == []
        self.found["errands"] += len(self.errands)
        self.found["turns charged"] += sum(turn.charged is not None for each in delegations for turn in each.turns)

    def _arrived(self) -> frozenset[str]:
        """The keys of the settlements that a remote authority's proxy has seen, whatever became of them there."""
        if self.stage.kind == "embedded":
            return frozenset()
        return frozenset(passed.key for operation in ("commit", "event") for passed in self.stage.proxy.of(operation))


def _expected(errand: Errand) -> tuple[str, int]:
    return ("COMMITTED", errand.microcents) if errand.purpose == "commit" else ("RELEASED", 0)


@pytest.mark.parametrize("kind", ["embedded", "remote"])
async def test_whatever_servers_die_of_each_errand_is_done_once(
    tmp_path: Path, nursery: Nursery, authority: Authority, kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    """Design, when things go wrong: all of it survives kill -9 at any point; so does what is asked again meanwhile."""
    found: Counter[str] = Counter()
    rng = random.Random(f"{SEED} {kind}")  # noqa: S311 - no secret
    try:
        for number in range(-(-KILLS // (SERVERS * ROUNDS))):
            directory = tmp_path / f"life-{number}"
            directory.mkdir()
            clock = WallClock(directory) if kind == "embedded" else None
            async with open_stage(directory, SCRIPT, kind=kind, nursery=nursery, authority=authority) as stage:
                await Life(name=f"{number}", stage=stage, rng=rng, found=found, clock=clock).live()
    finally:
        with capsys.disabled():
            counts = ", ".join(f"{what} {count:,}" for what, count in sorted(found.items()))
            print(f"\nSERVER_SEED={SEED}, {kind}: {counts}")  # noqa: T201
    assert found["asked again"]
    assert sum(found[place] for place in (SIGNAL, AFTERWARDS, *IN_THE_LEDGER, *IN_THE_JOURNAL)) >= KILLS
