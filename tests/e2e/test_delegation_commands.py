"""People look after delegations beside running servers: list, show, cancel, forget."""

from collections.abc import Callable

import anyio
import pytest
from mcp import Client

from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn
from hosting import Environment, call, complaint_of, run_program

pytestmark = pytest.mark.anyio

Host = Callable[..., Client]


@pytest.mark.usefixtures("workshop")
async def test_a_delegation_is_listed_and_shown_with_its_turns_and_its_words(
    environment: Environment, host: Host
) -> None:
    """README, delegations: what was asked, said, used and charged; nothing in it may command a terminal."""
    script = [Turn(text="I look.", tool_calls=(ToolCall("workshop__list_parts"),)), Turn(text="Five.\x1b[2J\x07")]
    async with ScriptedClaude(script) as claude:
        environment |= {"ANTHROPIC_API_KEY": "test", "ANTHROPIC_BASE_URL": claude.base_url}
        async with host() as client:
            result = await call(client, "delegate_to_claude", task="How many\nparts?", tools=["workshop__*"])

    listed = run_program(environment, "delegations", "list").stdout
    shown = run_program(environment, "delegations", "show", result["delegation_id"]).stdout
    others = run_program(environment, "delegations", "list", "--status", "failed").stdout

    assert result["delegation_id"] in listed
    assert "How many parts?" in listed
    assert f"${result['spent']['usd']}" in listed
    assert result["delegation_id"] not in others
    assert "workshop__list_parts" in shown
    assert "[told] How many\nparts?" in shown
    assert "[Claude] Five." in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert all(f"${turn['charged']['usd']}" in shown for turn in result["turns"])


async def test_a_turn_that_was_charged_at_its_bound_is_shown_with_the_reason(
    environment: Environment, host: Host
) -> None:
    """Docs, evidence: why a cost is not known stands in what people look at, not on standard error alone."""
    async with ScriptedClaude([Turn(text="Done.", fault="no_usage")]) as claude:
        environment |= {"ANTHROPIC_API_KEY": "test", "ANTHROPIC_BASE_URL": claude.base_url}
        async with host() as client:
            result = await call(client, "delegate_to_claude", task="Do it.")

    shown = run_program(environment, "delegations", "show", result["delegation_id"]).stdout

    (turn,) = result["turns"]
    assert turn["charged_because"] in shown.replace("known\n", "known.\n")
    assert f"turn 1 was charged ${turn['charged']['usd']}, its worst case: The answer came without usage" in shown


async def test_a_running_delegation_is_cancelled_from_outside_and_can_be_resumed(
    environment: Environment, host: Host
) -> None:
    """README, delegations: the process that runs it stops it and settles what is in flight."""
    async with ScriptedClaude([Turn(text="Never.", hold=anyio.Event()), Turn(text="Done.")]) as claude:
        environment |= {"ANTHROPIC_API_KEY": "test", "ANTHROPIC_BASE_URL": claude.base_url}
        async with host() as client:
            running = await call(client, "delegate_to_claude", task="Wait.", wait_seconds=0)
            with anyio.fail_after(20):
                (request,) = await claude.wait_for_requests(1)
                await request.held.wait()
            asked = await anyio.to_thread.run_sync(
                lambda: run_program(environment, "delegations", "cancel", running["delegation_id"])
            )
            stopped = await call(client, "delegation_status", delegation_id=running["delegation_id"], wait_seconds=20)
            resumed = await call(client, "delegate_to_claude", resume=running["delegation_id"])

    again = complaint_of(environment, "delegations", "cancel", running["delegation_id"])
    assert (asked.returncode, running["status"], stopped["status"]) == (0, "running", "cancelled")
    assert stopped["turns"][0]["actual_source"] == "bound"
    assert (resumed["status"], resumed["text"], len(resumed["turns"])) == ("completed", "Done.", 2)
    assert "does not run: it is completed" in again


async def test_old_delegations_are_forgotten_on_request_and_their_charges_stay(
    environment: Environment, host: Host
) -> None:
    """README, delegations: what was said goes, what was spent stays in the ledger."""
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment |= {"ANTHROPIC_API_KEY": "test", "ANTHROPIC_BASE_URL": claude.base_url}
        async with host() as client:
            result = await call(client, "delegate_to_claude", task="Do it.")

    kept = run_program(environment, "delegations", "prune").stdout
    forgotten = run_program(environment, "delegations", "prune", "--days", "0").stdout
    listed = run_program(environment, "delegations", "list").stdout

    assert kept == "0 delegations forgotten.\n"
    assert forgotten == "1 delegation forgotten.\n"
    assert result["delegation_id"] not in listed
    assert result["spent"]["usd"] in run_program(environment, "budget", "show").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "d-1"), "There is no delegation 'd-1'"),
        (("cancel", "d-1"), "There is no delegation 'd-1'"),
        (("list", "--status", "done"), "--status must be one of completed, running"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_sentence(environment: Environment, arguments: tuple[str, ...], says: str) -> None:
    """Bad input gets one clear sentence, and exit code 2."""
    assert says in complaint_of(environment, "delegations", *arguments)
