"""``kill -9`` of a real server at any moment of its delegations: nothing paid for is lost, nothing is paid twice.

Each kill comes at a moment drawn evenly from the time that the same takes undisturbed: while delegations run, while
they are resumed, while a process starts and settles what the one before it left. ``CAMPAIGN_KILLS=200`` is the whole
campaign; ``CAMPAIGN_SEED`` repeats one.
"""

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Answer, Failure, ReceivedRequest, ScriptedClaude, ToolCall, Turn
from budget_tools.spends.reserver import HOLD_MS
from campaigns.books import Books, check_kept, check_not_asked_again, look
from campaigns.hosts import Host, delivered, environment_of, hosted, settled
from hosting import Environment, GoneError, run_program
from tools.delegation.harness import servers_file, shed

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("CAMPAIGN_KILLS", "12"))
SEED = int(os.environ.get("CAMPAIGN_SEED", "0")) or secrets.randbelow(2**32)

KILLS_OF_A_LIFE = 6
"""After so many kills the delegations may end, and others begin."""

STEPS = 6
SAID = [*(f"Step {step}." for step in range(STEPS)), "All is done."]
"""What a delegation says from its beginning to its end, however often it was killed in between."""

STARTS = 0.3
"""What part of the kills comes while a process starts."""

LANES = 2
"""Lives that are lived side by side; more would only wait for each other."""

REFUSES_EVERY = 17
"""The request after so many that is refused unbilled, so that money is given back now and then."""

NAMES = ("first", "second")
"""The delegations that run side by side."""

TOOL_PRICE = {"usd": "0.001"}


def script(body: Mapping[str, Any], number: int) -> Answer:
    """Answer by the conversation alone, so that who resumes one hears what would have been said without the kill."""
    if number % REFUSES_EVERY == 0:
        return Failure(status=400)
    step = sum(message["role"] == "assistant" for message in body["messages"])
    if step >= STEPS:
        return Turn(text=SAID[-1])
    calls = (ToolCall("shed__ramble", {"length": 100 + step}), ToolCall("shed__count", {"step": step}))
    return Turn(thinking=f"What is step {step}?", text=SAID[step], tool_calls=calls)


@dataclass(kw_only=True)
class Life:
    """Delegations from their first start to their end, and the kills in between."""

    environment: Environment
    claude: ScriptedClaude
    log: Path
    rng: random.Random
    found: Counter[str]
    """What was in flight at the kills."""
    ids: dict[str, str] = field(default_factory=dict[str, str])
    books: Books | None = None
    seen: int = 0
    """Requests that the kill before this moment came after."""

    async def take_up(self, host: Host, name: str) -> None:
        """Start a delegation, or join the call that started it, and resume it until it is completed."""
        arguments = {"task": f"Do the {name} task.", "tools": ["shed__*"], "max_turns": 100}
        result = await host.call("delegate_to_claude", **arguments, idempotency_key=name, wait_seconds=0)
        assert self.ids.setdefault(name, result["delegation_id"]) == result["delegation_id"]
        while result["status"] != "completed":
            if result["status"] == "running":
                result = await host.call("delegation_status", delegation_id=self.ids[name], wait_seconds=60)
            else:
                assert result["resumable"], result
                result = await host.call("delegate_to_claude", resume=self.ids[name], wait_seconds=0)

    async def take_up_all(self, host: Host) -> None:
        """Bring all delegations to their end, unless the process ends first."""
        async with anyio.create_task_group() as tasks:
            for name in NAMES:
                tasks.start_soon(self._take_up_unless_killed, host, name)

    async def _take_up_unless_killed(self, host: Host, name: str) -> None:
        try:
            await self.take_up(host, name)
        except GoneError:
            self.found["calls that were cut off"] += 1

    async def killed_while_it_runs(self, seconds: float) -> None:
        """Kill a process that works, at some moment of the time that it takes."""
        async with hosted(self.environment, self.log) as host, anyio.create_task_group() as tasks:
            await host.connect()
            await host.warm_up()
            await settled(host)
            tasks.start_soon(self.take_up_all, host)
            await anyio.sleep(self.rng.uniform(0, seconds))
            await host.kill()

    async def killed_while_it_starts(self, seconds: float) -> None:
        """Kill a process that starts and settles what another left behind."""
        async with hosted(self.environment, self.log) as host:
            await anyio.sleep(self.rng.uniform(0, seconds))
            await host.kill()

    async def note(self) -> None:
        """Look at what a kill left behind, which must follow from what was there before."""
        await delivered()
        requests = self.claude.message_requests[self.seen :]
        self.seen += len(requests)
        before, self.books = self.books, await look(self.environment)
        self.books.check_sums()
        self.books.check_answers()
        self._count(self.books)
        if before is not None:
            check_kept(before, self.books, was_killed=True)
            check_not_asked_again(before, [each.body for each in requests])

    def _count(self, books: Books) -> None:
        for spend in books.open_spends:
            kind = "held for a last answer" if spend.is_hold else f"{spend.action['kind']} in flight"
            cost = "" if spend.is_hold else ", cost known" if spend.charge is not None else ", cost not known"
            self.found[f"{kind}{cost}, {books.reservation(spend).state}"] += 1
        known = {spend.reservation_id for spend in books.open_spends}
        self.found["reserved and not yet written down"] += sum(
            reserved.state == "ACTIVE" and each not in known for each, reserved in books.ledger.reservations.items()
        )

    async def end(self) -> None:
        """Let the delegations come to their end, and check what they came to."""
        async with hosted(self.environment, self.log) as host:
            await host.connect()
            await self.take_up_all(host)
            listed = await host.call("list_delegations")
        await self.note()
        books = self.books
        assert books is not None
        assert {each["status"] for each in listed["delegations"]} == {"completed"}
        assert len(books.delegations) == len(NAMES)
        assert not books.open_spends
        for messages in books.conversations.values():
            assert [texts(message.content) for message in messages if message.role == "assistant"] == SAID
        self._check_requests(books)
        checked = await anyio.to_thread.run_sync(run_program, self.environment, "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        later = await look(self.environment, later_ms=2 * HOLD_MS)
        assert (later.ledger.balance["reserved"], later.ledger.balance["spent"]) == (0, books.charged)

    def _check_requests(self, books: Books) -> None:
        """Every request that reached Claude is a turn that was charged, or was refused unbilled."""
        for name in NAMES:
            asked = [each for each in self.claude.message_requests if is_of(each, name)]
            refused = sum(is_refused(self.claude, each) for each in asked)
            charged = sum(turn.charged is not None for turn in books.delegations[self.ids[name]].turns)
            assert len(asked) - refused <= charged
            heard = sum(turn.actual_source == "usage" for turn in books.delegations[self.ids[name]].turns)
            assert heard == len(SAID)
            self.found["requests"] += len(asked)
            self.found["turns charged, though killed before their request left"] += charged - len(asked) + refused


def texts(content: str | Sequence[Mapping[str, Any]]) -> str:
    """What a message says."""
    assert not isinstance(content, str)
    return "".join(str(block["text"]) for block in content if block["type"] == "text")


def is_of(request: ReceivedRequest, name: str) -> bool:
    """Whether a request is one of a delegation of this name."""
    return str(request.body["messages"][0]["content"]).startswith(f"Do the {name} task.")


def is_refused(claude: ScriptedClaude, request: ReceivedRequest) -> bool:
    """Whether the script refused a request unbilled."""
    return (claude.message_requests.index(request) + 1) % REFUSES_EVERY == 0


def begin(directory: Path, claude: ScriptedClaude, rng: random.Random, found: Counter[str]) -> Life:
    """Begin a life in a data directory of its own."""
    directory.mkdir()
    servers = servers_file(directory, {"shed": {**shed(), "budget": {"tools": {"ramble": TOOL_PRICE}}}})
    environment = environment_of(directory, claude.base_url, usd="50", servers=servers)
    return Life(environment=environment, claude=claude, log=directory / "log", rng=rng, found=found)


def dice(name: str) -> random.Random:
    """What decides a life's moments, whatever others do meanwhile."""
    return random.Random(f"{SEED} {name}")  # noqa: S311 - not a secret


async def undisturbed(directory: Path, rng: random.Random) -> tuple[float, float]:
    """Measure how many seconds a start takes that has something to settle, and how many the delegations take."""
    async with ScriptedClaude(script) as claude:
        life = begin(directory, claude, rng, Counter())
        await life.killed_while_it_runs(0.1)
        started_at = time.monotonic()
        async with hosted(life.environment, life.log) as host:
            await host.connect()
            await settled(host)
            ready_at = time.monotonic()
            await host.warm_up()
            warm_at = time.monotonic()
            await life.take_up_all(host)
            return ready_at - started_at, time.monotonic() - warm_at


async def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Design, when things go wrong: all of it survives kill -9 at any point, and nothing in flight is given back."""
    start_seconds, run_seconds = await undisturbed(tmp_path / "undisturbed", dice("undisturbed"))
    found: Counter[str] = Counter()
    lives = iter(range(0, KILLS, KILLS_OF_A_LIFE))

    async def live() -> None:
        for first in lives:
            async with ScriptedClaude(script) as claude:
                life = begin(tmp_path / f"from-kill-{first}", claude, dice(str(first)), found)
                for number in range(first, min(first + KILLS_OF_A_LIFE, KILLS)):
                    if number > first and life.rng.random() < STARTS:
                        await life.killed_while_it_starts(start_seconds)
                    else:
                        await life.killed_while_it_runs(run_seconds)
                    await life.note()
                    found["kills"] += 1
                await life.end()

    try:
        async with anyio.create_task_group() as lanes:
            for _ in range(LANES):
                lanes.start_soon(live)
    finally:
        with capsys.disabled():
            print(f"\nCAMPAIGN_SEED={SEED}: a start takes {start_seconds:.2f} s, a run {run_seconds:.2f} s")  # noqa: T201
            for what, count in sorted(found.items()):
                print(f"  {count:5} {what}")  # noqa: T201
    met = sum(count for what, count in found.items() if what.startswith(("held", "llm.completion", "tool.call")))
    assert met >= KILLS // 4, "most kills came before anything was under way: the moments are drawn from the wrong time"
