"""Claude Code waits for a delegation, cuts it off, is interrupted or killed: what becomes of the work and the money."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn
from hosting import Environment, assert_spent, ledger_balance
from hosts.claude_code import ClaudeCode, Model, Reading, Run, Step, calls, loads
from hosts.connecting import HTTP, SSE, STDIO, Way, with_claude

pytestmark = pytest.mark.anyio

PROMPT = "Delegate the long job."
NEXT_PROMPT = "See what became of the long job."
TASK = "Count the spokes of every wheel."
ANSWER = "7,204 spokes."

TOOL_SECONDS = 10
"""How long the host lets a call take; a call that waits for a second takes far less on any machine."""
IMPATIENT = {"MCP_TOOL_TIMEOUT": str(TOOL_SECONDS * 1_000)}

DELEGATE = calls("delegate_to_claude", task=TASK, wait_seconds=3_600)


def wait_for(delegation_id: str, seconds: int = 5) -> ToolCall:
    """Wait for a delegation, for less than the host lets a call take."""
    return calls("delegation_status", delegation_id=delegation_id, wait_seconds=seconds)


def wait_for_listed(read: Reading) -> ToolCall:
    """Wait for the newest delegation of the list that was read last."""
    return wait_for(read[-1]["delegations"][0]["delegation_id"])


def resume_waited_for(read: Reading) -> ToolCall:
    """Go on with the delegation whose end was read last."""
    return calls("delegate_to_claude", resume=read[-1]["delegation_id"])


FIND_AND_WAIT: tuple[Step, ...] = (
    loads("list_delegations", "delegation_status"),
    calls("list_delegations"),
    wait_for_listed,
)


async def turn_in_flight(claude: ScriptedClaude) -> anyio.Event:
    """Wait until the sub-agent's turn is in flight, and give what will tell that it was given up."""
    _, request = await claude.wait_for_requests(2)  # the first is the host's own
    assert request.body["messages"][0]["content"] == TASK
    return request.disconnected


async def test_a_delegation_outlives_the_time_that_the_host_gives_a_call(
    program: Path, tmp_path: Path, environment: Environment
) -> None:
    """README, Delegating: it answers running within wait_seconds, and delegation_status waits for the rest."""
    may_end = anyio.Event()

    def wait(read: Reading) -> ToolCall:
        return wait_for(read[0]["delegation_id"], seconds=1)

    def wait_to_the_end(read: Reading) -> ToolCall:
        may_end.set()
        return wait_for(read[0]["delegation_id"])

    model = Model(
        calls("delegate_to_claude", task=TASK, wait_seconds=1),
        loads("delegation_status"),
        *[wait] * TOOL_SECONDS,
        wait_to_the_end,
    )
    async with ScriptedClaude(conversations={PROMPT: model, TASK: [Turn(text=ANSWER, hold=may_end)]}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude, IMPATIENT)
        with STDIO.to_server(with_claude(environment, claude)) as server, anyio.fail_after(120):
            run = await host.run(PROMPT, server)

    waited = [model.read[0], *(model.read[2 + number] for number in range(TOOL_SECONDS))]
    last = model.read[-1]
    assert (run.exit_code, model.read.errors) == (0, [])
    assert {each["status"] for each in waited} == {"running"}
    assert (last["status"], last["text"]) == ("completed", ANSWER)
    assert ledger_balance(environment)["spent"] == last["spent"]["amount"] > 0


@pytest.mark.parametrize("way", [STDIO, HTTP, SSE], ids=str)
async def test_a_call_that_the_host_cuts_off_goes_on_where_that_is_wanted(
    program: Path, tmp_path: Path, environment: Environment, way: Way
) -> None:
    """BUDGET_ON_DISCONNECT=detach: the host's model reads that the call took too long, and finds its work again."""
    may_end = anyio.Event()

    def wait_to_the_end(read: Reading) -> ToolCall:
        may_end.set()
        return wait_for_listed(read)

    model = Model(DELEGATE, *FIND_AND_WAIT[:-1], wait_to_the_end)
    environment["BUDGET_ON_DISCONNECT"] = "detach"
    async with ScriptedClaude(conversations={PROMPT: model, TASK: [Turn(text=ANSWER, hold=may_end)]}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude, IMPATIENT)
        with way.to_server(with_claude(environment, claude)) as server, anyio.fail_after(120):
            run = await host.run(PROMPT, server)

    (complaint,) = model.read.errors
    found, last = model.read[2], model.read[3]
    assert run.exit_code == 0
    assert "timed out" in complaint
    assert [each["status"] for each in found["delegations"]] == ["running"]
    assert (last["status"], last["text"]) == ("completed", ANSWER)
    assert_spent(environment, last["spent"]["amount"])


@pytest.mark.parametrize("end", [Run.interrupt, Run.kill], ids=["interrupted", "killed"])
@pytest.mark.parametrize("way", [STDIO, HTTP, SSE], ids=str)
async def test_a_delegation_whose_host_is_gone_stops_and_the_next_run_goes_on(
    program: Path, tmp_path: Path, environment: Environment, way: Way, end: Callable[[Run], None]
) -> None:
    """BUDGET_ON_DISCONNECT=cancel: no more is spent, what was in flight is charged at its bound, nothing stays held."""
    first, second = Model(DELEGATE), Model(*FIND_AND_WAIT, resume_waited_for)
    sub_agent = [Turn(text="Never heard.", hold=anyio.Event()), Turn(text=ANSWER)]
    async with ScriptedClaude(conversations={PROMPT: first, NEXT_PROMPT: second, TASK: sub_agent}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude)
        with way.to_server(with_claude(environment, claude)) as server, anyio.fail_after(120):
            async with host.running(PROMPT, server) as run:
                given_up = await turn_in_flight(claude)
                bound = (await anyio.to_thread.run_sync(ledger_balance, environment))["reserved"]
                end(run)
                await run.ended()
            await given_up.wait()
            ended = await host.run(NEXT_PROMPT, server)

    stopped, resumed = second.read[2], second.read[3]
    assert (ended.exit_code, second.read.errors) == (0, [])
    assert (stopped["status"], stopped["resumable"]) == ("cancelled", True)
    assert stopped["spent"]["amount"] == bound > 0
    assert (resumed["status"], resumed["text"]) == ("completed", ANSWER)
    assert resumed["spent"]["amount"] > bound
    assert_spent(environment, resumed["spent"]["amount"])


async def test_a_delegation_goes_on_without_its_host_where_that_is_wanted(
    program: Path, tmp_path: Path, environment: Environment
) -> None:
    """BUDGET_ON_DISCONNECT=detach, over HTTP: the process that serves outlives its host, and so does the work."""
    may_end = anyio.Event()
    first, second = Model(DELEGATE), Model(*FIND_AND_WAIT)
    environment["BUDGET_ON_DISCONNECT"] = "detach"
    sub_agent = [Turn(text=ANSWER, hold=may_end)]
    async with ScriptedClaude(conversations={PROMPT: first, NEXT_PROMPT: second, TASK: sub_agent}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude)
        with HTTP.to_server(with_claude(environment, claude)) as server, anyio.fail_after(120):
            async with host.running(PROMPT, server) as run:
                given_up = await turn_in_flight(claude)
                run.interrupt()
                await run.ended()
            may_end.set()
            ended = await host.run(NEXT_PROMPT, server)

    last = second.read[2]
    assert (ended.exit_code, second.read.errors) == (0, [])
    assert not given_up.is_set()
    assert (last["status"], last["text"]) == ("completed", ANSWER)
    assert_spent(environment, last["spent"]["amount"])
