"""Sixteen delegations in four server processes, on a budget for about half of their turns, and one Claude for all.

Whoever loses the race for the last money has a clear end, and no process, dead or alive, leaves money held.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Answer, ScriptedClaude, ToolCall, Turn, Usage
from budget_tools.core.money import parse_usd
from budget_tools.spends.reserver import HOLD_MS
from campaigns.books import Books, look
from campaigns.hosts import PATIENCE_SECONDS, Host, environment_of, hosted, settled
from hosting import Environment, GoneError, run_program
from tools.delegation.harness import servers_file, shed

pytestmark = pytest.mark.anyio

PROCESSES = 4
CROWD = 16
STEPS = 6
"""Turns that each delegation would take, and one for its answer."""

HALF_USD = "0.38"
"""What about half of the turns of the crowd cost."""

ENDED = {"completed", "budget_exhausted"}


def script(body: Mapping[str, Any], number: int) -> Answer:
    """Ask for a tool in every turn, as long as there are tools, for so many turns."""
    step = sum(message["role"] == "assistant" for message in body["messages"])
    if step >= STEPS or body.get("tool_choice") == {"type": "none"}:
        return Turn(text=f"What I know after {step} steps.")
    call = ToolCall("shed__ramble", {"length": 200 + number})
    return Turn(text=f"Step {step}.", tool_calls=(call,), usage=Usage(output_tokens=500))


def nesting_script(body: Mapping[str, Any], number: int) -> Answer:
    """The same, but the first step of a host's own delegation is to delegate a part of it."""
    opening = str(body["messages"][0]["content"])
    is_first = len(body["messages"]) == 1
    if is_first and opening.startswith("Do task") and body.get("tool_choice") != {"type": "none"}:
        nested = {"task": f"Do a part of it ({opening})", "idempotency_key": f"part of {opening}", "tools": ["shed__*"]}
        return Turn(text="Step 0.", tool_calls=(ToolCall("budget__delegate_to_claude", nested),))
    return script(body, number)


class Crowd:
    """The processes, and what their delegations came to."""

    def __init__(self, environment: Environment, tools: Sequence[str] = ("shed__*",)) -> None:
        self.environment = environment
        self.tools = list(tools)
        self.hosts: list[Host] = []
        self.results: dict[int, dict[str, Any]] = {}
        self.lost: set[int] = set()
        """Calls that were cut off when their process was killed."""

    async def delegate(self, number: int) -> None:
        """Have one task done, by the process whose turn it is."""
        host = self.hosts[number % len(self.hosts)]
        try:
            self.results[number] = await host.call(
                "delegate_to_claude",
                task=f"Do task {number}.",
                tools=self.tools,
                max_turns=20,
                max_output_tokens=1_000,
                wait_seconds=PATIENCE_SECONDS,
            )
        except GoneError:
            self.lost.add(number)

    async def resume(self, host: Host, delegation_id: str) -> None:
        """Have a delegation go on that a killed process ran."""
        result = await host.call("delegate_to_claude", resume=delegation_id, wait_seconds=PATIENCE_SECONDS)
        assert result["status"] in ENDED, result

    async def check(self, *, allocated: int) -> Books:
        """Every delegation has ended and says why; the money adds up, and none is held."""
        books = await look(self.environment)
        books.check_sums()
        assert not books.open_spends
        balance = books.ledger.balance
        assert (balance["allocated"], balance["spent"]) == (allocated, books.charged)
        assert {each.status for each in books.delegations.values()} <= ENDED
        for each in books.delegations.values():
            assert each.hint or each.status == "completed", each
            assert each.text or "does not cover" in each.hint, each
        checked = await anyio.to_thread.run_sync(run_program, self.environment, "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        later = await look(self.environment, later_ms=2 * HOLD_MS)
        assert (later.ledger.balance["reserved"], later.ledger.balance["spent"]) == (0, books.charged)
        return books


async def hosts_of(opened: AsyncExitStack, environment: Environment, log: Path, number: int) -> Sequence[Host]:
    """Start so many processes, all at once."""
    hosts: list[Host] = [await opened.enter_async_context(hosted(environment, log)) for _ in range(number)]
    async with anyio.create_task_group() as tasks:
        for host in hosts:
            tasks.start_soon(host.connect)
    return hosts


def settings_of(directory: Path, claude: ScriptedClaude, *, usd: str, nests: bool = False) -> Environment:
    """Settings of the processes; where they nest, a sub-agent's tools are those of this very server as well."""
    environment = environment_of(directory, claude.base_url, usd=usd)
    servers: dict[str, object] = {"shed": {**shed(), "budget": {"tools": {"ramble": {"usd": "0.0005"}}}}}
    if nests:
        own = {name: value for name, value in environment.items() if name != "PATH"}
        nested = {**own, "BUDGET_SUBAGENT_SERVERS": str(servers_file(directory, servers))}
        directory = directory / "outer"
        directory.mkdir()
        servers["budget"] = {"command": sys.executable, "args": ["-m", "budget_server"], "env": nested}
    return {**environment, "BUDGET_SUBAGENT_SERVERS": str(servers_file(directory, servers))}


async def test_a_crowd_in_four_processes_spends_its_budget_and_no_more(tmp_path: Path) -> None:
    """Design, 1 and 4: overshoot is zero whoever else spends, and a budget stop loses no work."""
    async with ScriptedClaude(script) as claude, AsyncExitStack() as opened:
        crowd = Crowd(settings_of(tmp_path, claude, usd=HALF_USD))
        crowd.hosts += await hosts_of(opened, crowd.environment, tmp_path / "log", PROCESSES)
        async with anyio.create_task_group() as tasks:
            for number in range(CROWD):
                tasks.start_soon(crowd.delegate, number)
    books = await crowd.check(allocated=parse_usd(HALF_USD))

    assert len(claude.message_requests) == books.turns_charged
    assert len(books.delegations) == CROWD
    # How many complete is a matter of who comes when: where all are in step, each lands while the others hold theirs.
    assert "budget_exhausted" in {each["status"] for each in crowd.results.values()}
    assert books.turns_charged < CROWD * (STEPS + 1)


async def test_a_crowd_that_delegates_further_and_loses_a_process_keeps_to_its_budget(tmp_path: Path) -> None:
    """Design, when things go wrong: another process resumes what a killed one ran, and nested ones count as well."""
    killed = PROCESSES - 1
    async with ScriptedClaude(nesting_script) as claude, AsyncExitStack() as opened:
        crowd = Crowd(settings_of(tmp_path, claude, usd=HALF_USD, nests=True), ["shed__*", "budget__*"])
        crowd.hosts += await hosts_of(opened, crowd.environment, tmp_path / "log", PROCESSES)
        async with anyio.create_task_group() as tasks:
            for number in range(CROWD):
                tasks.start_soon(crowd.delegate, number)
            with anyio.fail_after(PATIENCE_SECONDS):
                await claude.wait_for_requests(2 * CROWD)
            await crowd.hosts[killed].kill()
        assert crowd.lost == {number for number in range(CROWD) if number % PROCESSES == killed} - set(crowd.results)
        async with hosted(crowd.environment, tmp_path / "log") as another:
            await another.connect()
            await settled(another)
            listed = await another.call("list_delegations", limit=100)
            async with anyio.create_task_group() as tasks:
                for each in listed["delegations"]:
                    if each["status"] in ("failed", "cancelled"):
                        tasks.start_soon(crowd.resume, another, each["delegation_id"])
    books = await crowd.check(allocated=parse_usd(HALF_USD))

    assert len(claude.message_requests) <= books.turns_charged
    nested = [each for each in books.delegations.values() if each.parent_id]
    assert nested
    assert len(books.delegations) == CROWD + len(nested)
    assert all(books.delegations[each.parent_id].depth + 1 == each.depth for each in nested)


async def test_a_key_that_comes_to_all_processes_at_once_starts_one_delegation(tmp_path: Path) -> None:
    """Design: a repeated call with the same idempotency key joins; it never starts a second one, in no process."""
    async with ScriptedClaude(script) as claude, AsyncExitStack() as opened:
        crowd = Crowd(settings_of(tmp_path, claude, usd="2.00"))
        crowd.hosts += await hosts_of(opened, crowd.environment, tmp_path / "log", PROCESSES)
        async with anyio.create_task_group() as tasks:
            for host in crowd.hosts:
                tasks.start_soon(host.warm_up)
        results: list[dict[str, Any]] = []

        async def call(host: Host) -> None:
            arguments = {"task": "Do task 0.", "tools": ["shed__*"], "idempotency_key": "one"}
            results.append(await host.call("delegate_to_claude", **arguments, wait_seconds=PATIENCE_SECONDS))

        async with anyio.create_task_group() as tasks:
            for host in crowd.hosts:
                tasks.start_soon(call, host)
    books = await crowd.check(allocated=parse_usd("2.00"))

    (delegation,) = books.delegations.values()
    assert delegation.status == "completed"
    assert [each["delegation_id"] for each in results] == [delegation.delegation_id] * PROCESSES
    assert [each["text"] for each in results] == [delegation.text] * PROCESSES
    assert len(claude.message_requests) == books.turns_charged == STEPS + 1


async def test_whoever_waits_for_a_delegation_hears_that_its_process_died(tmp_path: Path) -> None:
    """Design, a budget stop loses no work: a crashed delegation is resumable by id, in a process that lives on, too."""
    script = [Turn(text="Never.", hold=anyio.Event()), Turn(text="Done.")]
    async with ScriptedClaude(script) as claude, AsyncExitStack() as opened:
        environment = settings_of(tmp_path, claude, usd="2.00")
        one, other = await hosts_of(opened, environment, tmp_path / "log", 2)
        call = {"task": "Do it.", "idempotency_key": "one"}
        running = await one.call("delegate_to_claude", **call, wait_seconds=0)
        with anyio.fail_after(PATIENCE_SECONDS):
            await claude.wait_for_requests(1)
        results: list[dict[str, Any]] = []

        async def wait(tool: str, **arguments: object) -> None:
            results.append(await other.call(tool, **arguments, wait_seconds=PATIENCE_SECONDS // 2))

        with anyio.fail_after(PATIENCE_SECONDS // 3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(wait, "delegation_status", delegation_id=running["delegation_id"]))
                await one.kill()
            await wait("delegate_to_claude", **call)
        resumed = await other.call("delegate_to_claude", resume=running["delegation_id"])

    assert [(each["status"], each["resumable"]) for each in results] == [("failed", True)] * 2
    assert (resumed["status"], resumed["text"]) == ("completed", "Done.")
    (await look(environment)).check_sums()
