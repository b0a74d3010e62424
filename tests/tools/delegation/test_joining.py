"""Delegations that outlive their call: waiting for them, joining them, and never starting one twice."""

from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import ToolCall, Turn
from tools.delegation.harness import PATIENCE_SECONDS, OpenBench, background

pytestmark = pytest.mark.anyio


async def test_a_call_that_will_not_wait_hears_running_and_status_waits_for_the_end(bench: OpenBench) -> None:
    """Design: hosts cut calls off; the loop goes on, and delegation_status waits for the rest."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])

    running = await b.delegate(wait_seconds=0)
    await b.held(1)
    still = await b.status(running["delegation_id"])
    async with background(lambda: b.status(running["delegation_id"], wait_seconds=PATIENCE_SECONDS)) as results:
        go_on.set()

    assert (running["status"], still["status"], running["turns"]) == ("running", "running", [])
    assert "delegation_status" in running["hint"]
    assert "turn 1" in still["hint"]
    assert [(result["status"], result["text"]) for result in results] == [("completed", "Done.")]
    assert results[0]["delegation_id"] == running["delegation_id"]


async def test_repeating_the_call_joins_the_delegation(bench: OpenBench) -> None:
    """Design: a repeated call with the same key joins; it never starts a second one."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])
    arguments: dict[str, Any] = {"idempotency_key": "k-1", "subject": {"agent": "reader"}, "tools": ["shed__count"]}
    results: list[dict[str, Any]] = []

    async def call() -> None:
        results.append(await b.delegate(**arguments))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        tasks.start_soon(call)
        await b.held(1)
        tasks.start_soon(call)
        go_on.set()
    results.append(await b.delegate(**arguments))

    assert b.sent == 1
    assert results == [results[0]] * 4
    assert (results[0]["status"], results[0]["idempotency_key"]) == ("completed", "k-1")


@pytest.mark.parametrize(
    "other",
    [
        {"task": "Another."},
        {"max_turns": 3},
        {"budget_usd": "0.5"},
        {"subject": {"agent": "writer"}},
        {"system": "No."},
    ],
    ids=["task", "turns", "budget", "subject", "system"],
)
async def test_the_same_key_with_another_task_is_refused(bench: OpenBench, other: dict[str, Any]) -> None:
    """Design: ids are made before the first attempt; the same id with other content is an error."""
    b = await bench([Turn(text="Done.")])
    await b.delegate(idempotency_key="k-1")

    refusal = await b.refused(idempotency_key="k-1", **other)

    assert refusal.startswith("IDEMPOTENCY_MISMATCH: ")
    assert (b.sent, len(await b.kept())) == (1, 1)


async def test_without_a_key_every_call_is_a_new_delegation(bench: OpenBench) -> None:
    """The server makes a key and returns it."""
    b = await bench([Turn(text="Done.")] * 2)

    one, other = await b.delegate(), await b.delegate()

    assert one["delegation_id"] != other["delegation_id"]
    assert one["idempotency_key"] != other["idempotency_key"] != ""


async def test_progress_is_told_turn_by_turn(bench: OpenBench) -> None:
    """Design, 7: report progress: turn, spent, remaining, what it is doing."""
    b = await bench([Turn(text="I look.", tool_calls=(ToolCall("shed__count"),)), Turn(text="Done.")])
    heard: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - the SDK names them
        heard.append((progress, message or ""))

    with anyio.fail_after(PATIENCE_SECONDS):
        await b.client.call_tool(
            "delegate_to_claude", {"task": "Do it.", "tools": ["shed__count"]}, progress_callback=note
        )

    steps = [step for step, _ in heard]
    assert steps == sorted(steps)
    assert any("shed__count" in message and "spent" in message and "remains" in message for _, message in heard)
    assert "completed" in heard[-1][1]


async def test_a_host_that_hears_progress_slowly_still_hears_the_end_at_once(bench: OpenBench) -> None:
    """A delegation may end while its progress is on the way; nobody may then wait for another change."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])
    running = await b.delegate(wait_seconds=0)
    delegation = b.running(running["delegation_id"])

    async def linger(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - the SDK names them
        go_on.set()
        while not delegation.is_done:
            await delegation.next_change()

    with anyio.fail_after(PATIENCE_SECONDS):
        result = await b.client.call_tool(
            "delegation_status",
            {"delegation_id": delegation.id, "wait_seconds": 3_600},
            progress_callback=linger,
        )

    assert (result.structured_content or {})["status"] == "completed"


async def test_what_this_process_does_not_know_is_one_sentence(bench: OpenBench) -> None:
    """delegation_status: an unknown id is an error with a code."""
    b = await bench([])

    result = await b.call("delegation_status", delegation_id="d-unknown")

    assert result.is_error
    assert result.content[0].type == "text"
    assert result.content[0].text.startswith("NOT_FOUND: ")


async def test_more_than_this_process_runs_is_refused(bench: OpenBench) -> None:
    """A host in a loop must not start delegations without end."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())] * 20, usd="10.00")
    for _ in range(16):
        await b.delegate(wait_seconds=0)

    assert "16 delegations" in await b.refused()
