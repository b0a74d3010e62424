"""A person confirms what may cost much: asked through the host, in both generations of MCP, before anything happens."""

from collections.abc import Callable

import anyio
import pytest
from mcp import Client

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from hosting import ALLOCATED, Environment, Person, call, ledger_balance, refused
from networking import EVERY_WAY, host_over

pytestmark = pytest.mark.anyio
Host = Callable[..., Client]
GENERATIONS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture(autouse=True)
def _asks(environment: Environment) -> None:
    environment |= {"ANTHROPIC_API_KEY": "k", "BUDGET_CONFIRM_USD": "0.25"}


@pytest.mark.parametrize(("transport", "mode"), EVERY_WAY)
async def test_what_may_cost_more_is_asked_once_and_then_done_once(
    environment: Environment, transport: str, mode: str
) -> None:
    """The person sees the worst case and the task; the model sees neither the question nor a way to answer it."""
    person = Person({"go_ahead": True})
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        async with host_over(environment, transport, mode, person) as client:
            listed = await client.list_tools()
            with anyio.fail_after(60):
                result = await call(client, "delegate_to_claude", task="Write\na poem.", budget_usd="0.50")

    (schema,) = [tool.input_schema for tool in listed.tools if tool.name == "delegate_to_claude"]
    assert "confirmed" not in schema["properties"]
    assert result["status"] == "completed"
    (question,) = person.asked
    assert "up to $0.50" in question
    assert "Write a poem." in question
    assert [request.path for request in claude.requests].count("/v1/messages") == 1


@GENERATIONS
@pytest.mark.parametrize("answer", ["decline", "cancel", {"go_ahead": False}], ids=["declines", "cancels", "says no"])
async def test_a_no_is_respected(
    host: Host, environment: Environment, mode: str, answer: str | dict[str, str | bool]
) -> None:
    """Nothing is stored, reserved or sent, and the model is told not to try again."""
    person = Person(answer)
    async with ScriptedClaude([]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        async with host(mode, person) as client:
            with anyio.fail_after(60):
                said = await refused(client, "delegate_to_claude", task="Write.", budget_usd="0.50")
            listed = await call(client, "list_delegations")

    assert said.startswith("DECLINED: ")
    assert "do not try again" in said
    assert (len(person.asked), claude.requests, listed["delegations"]) == (1, [], [])
    assert ledger_balance(environment)["remaining"] == ALLOCATED


@GENERATIONS
async def test_a_host_that_cannot_ask_is_told_so(host: Host, environment: Environment, mode: str) -> None:
    """One sentence: how much, why not, and what to do; what stays below the limit goes on without a question."""
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        async with host(mode) as client:
            with anyio.fail_after(60):
                said = await refused(client, "delegate_to_claude", task="Write.")
                small = await call(client, "delegate_to_claude", task="Write.", budget_usd="0.25")

    assert said.startswith("CONFIRMATION_NEEDED: This delegation may spend up to $1.00")
    assert "BUDGET_CONFIRM_USD" in said
    assert small["status"] == "completed"


async def test_a_repeated_key_joins_what_was_confirmed_and_a_resume_asks_for_what_it_may_add(
    host: Host, environment: Environment
) -> None:
    """Asked is for new money alone."""
    person = Person({"go_ahead": True})
    async with ScriptedClaude([Turn(text="One."), Turn(text="Two.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        async with host("auto", person) as client:
            with anyio.fail_after(60):
                first = await call(client, "delegate_to_claude", task="W.", budget_usd="0.50", idempotency_key="k")
                again = await call(client, "delegate_to_claude", task="W.", budget_usd="0.50", idempotency_key="k")

    assert first["delegation_id"] == again["delegation_id"]
    assert len(person.asked) == 1
