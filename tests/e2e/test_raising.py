"""A person raises this machine's budget where a call would be denied: asked through the host, in every way there is."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from hosting import ALLOCATED, Environment, Person, call, complaint_of, ledger_balance, refused, run_program
from networking import EVERY_WAY, host_over, new_token, serving

pytestmark = pytest.mark.anyio
Host = Callable[..., Client]
GENERATIONS = pytest.mark.parametrize("mode", ["auto", "legacy"])
CENT = 1_000_000


@pytest.fixture(autouse=True)
def _may_be_raised(environment: Environment) -> None:
    environment["BUDGET_RAISE_TO_USD"] = "5"


def allocated(environment: Environment) -> int:
    """Read the whole budget from the ledger, in microcents."""
    return ledger_balance(environment)["allocated"]


@pytest.mark.parametrize(("transport", "mode"), EVERY_WAY)
async def test_a_person_raises_the_budget_to_what_they_read_and_the_call_goes_on(
    environment: Environment, transport: str, mode: str
) -> None:
    """Asked once, raised once, reserved once; the model sees neither the question nor a way to answer it."""
    person = Person({})
    with anyio.fail_after(60):
        async with host_over(environment, transport, mode, person) as client:
            (schema,) = [
                tool.input_schema for tool in (await client.list_tools()).tools if tool.name == "reserve_budget"
            ]
            await call(client, "reserve_budget", usd="0.90")
            asked_before = list(person.asked)
            held = await call(client, "reserve_budget", usd="0.50", action_name="draft", idempotency_key="k")
            again = await call(client, "reserve_budget", usd="0.50", action_name="draft", idempotency_key="k")

    assert "more" not in schema["properties"]
    assert asked_before == []
    (question,) = person.asked
    assert question == (
        "A reservation for draft needs $0.50, but of the budget of $1.00 only $0.10 is left. Raise the budget to $1.40?"
    )
    assert (held["decision"], again["reservation_id"]) == ("ALLOW", held["reservation_id"])
    assert held["hint"].startswith("A person raised the budget to $1.40. ")
    assert ledger_balance(environment) == {"allocated": 140 * CENT, "remaining": 0, "reserved": 140 * CENT, "spent": 0}


async def test_a_person_may_name_another_budget(host: Host, environment: Environment) -> None:
    """It is the whole budget that they name: it is never lowered by it, and nothing is added twice."""
    named = {"0.10": (100, "DENY"), "": (100, "DENY"), "1.20": (120, "DENY"), "$ 3.00": (300, "ALLOW")}
    found = {}
    async with host("auto", Person(*({"raise_to_usd": each} for each in named))) as client:
        for each in named:
            with anyio.fail_after(60):
                result = await call(client, "reserve_budget", usd="1.50")
            found[each] = (allocated(environment) // CENT, result["decision"])

    assert found == named


@GENERATIONS
async def test_what_nobody_may_grant_changes_nothing(host: Host, environment: Environment, mode: str) -> None:
    """One sentence, and neither a higher budget nor a reservation."""
    named = ["5.01", "100000000000000", "much", "-1", "1e3"]
    async with host(mode, Person(*({"raise_to_usd": each} for each in named))) as client:
        for _ in named:
            with anyio.fail_after(60):
                assert "the person named" in (await refused(client, "reserve_budget", usd="1.50")).lower()

    assert ledger_balance(environment) == {"allocated": ALLOCATED, "remaining": ALLOCATED, "reserved": 0, "spent": 0}


@GENERATIONS
@pytest.mark.parametrize("answer", ["decline", "cancel"])
async def test_a_no_is_respected_and_does_not_use_up_the_key(
    host: Host, environment: Environment, mode: str, answer: str
) -> None:
    """The model is told not to go on asking; where the person changes their mind, the same key reserves."""
    person = Person(answer, {})
    async with host(mode, person) as client:
        with anyio.fail_after(60):
            denied = await call(client, "reserve_budget", usd="1.50", idempotency_key="k")
            budget = allocated(environment)
            held = await call(client, "reserve_budget", usd="1.50", idempotency_key="k")

    assert (denied["decision"], denied["reason_code"], budget) == ("DENY", "BUDGET_EXCEEDED", ALLOCATED)
    assert "do not ask for it again" in denied["hint"]
    assert (held["decision"], allocated(environment)) == ("ALLOW", 150 * CENT)
    assert len(person.asked) == 2


@pytest.mark.parametrize(
    ("commands", "arguments"),
    [
        ([], {"usd": "5.01"}),
        ([], {"usd": "2", "dry_run": True}),
        ([["allocate", "1", "--unit", "TOKENS"]], {"amount": 5, "unit": "TOKENS"}),
        ([["freeze"]], {"usd": "2"}),
        ([["close", "--yes"]], {"usd": "2"}),
        ([["allocate", "0.50", "--scope", "tenant:local/agent:bot"]], {"usd": "2", "subject": {"agent": "bot"}}),
        ([["quota", "set", "llm.completion", "1", "--per", "day"]], {"usd": "2"}),
    ],
    ids=["beyond the most", "only asks", "another unit", "frozen", "closed", "narrower budget", "quota"],
)
async def test_nobody_is_asked_where_it_would_not_help(
    host: Host, environment: Environment, commands: list[list[str]], arguments: dict[str, object]
) -> None:
    """What raising the budget does not mend is denied as ever."""
    person = Person({})
    async with host("auto", person) as client:
        with anyio.fail_after(60):
            for command in commands:
                ended = await anyio.to_thread.run_sync(run_program, environment, "budget", *command)
                assert ended.returncode == 0, ended.stderr
            await call(client, "reserve_budget", usd="0.01")
            denied = await call(client, "reserve_budget", **arguments)

    assert (denied["decision"], person.asked) == ("DENY", [])


@GENERATIONS
async def test_a_host_that_cannot_ask_has_the_denial_itself(host: Host, mode: str) -> None:
    """It says what is left and who can raise it."""
    async with host(mode) as client:
        with anyio.fail_after(60):
            denied = await call(client, "reserve_budget", usd="1.50")

    assert (denied["decision"], denied["remaining"]["amount"]) == ("DENY", ALLOCATED)
    assert "ask an operator to fund this budget" in denied["hint"]


async def test_it_is_off_unless_it_is_set(host: Host, environment: Environment) -> None:
    """As every question of ours."""
    del environment["BUDGET_RAISE_TO_USD"]
    person = Person({})
    async with host("auto", person) as client:
        denied = await call(client, "reserve_budget", usd="1.50")

    assert (denied["decision"], person.asked) == ("DENY", [])


async def test_a_client_with_a_token_raises_nothing(environment: Environment) -> None:
    """Whoever sits before its host is not whose money it is."""
    person = Person({})
    run_program(environment, "budget", "allocate", "1")
    token = new_token(environment, "--tenant", "local")
    with anyio.fail_after(60), serving(environment, "streamable-http") as served:
        async with served.host("auto", token, person) as client:
            denied = await call(client, "reserve_budget", usd="1.50")

    assert (denied["decision"], person.asked, allocated(environment)) == ("DENY", [], ALLOCATED)


async def test_nobody_is_asked_for_a_sub_agent(host: Host) -> None:
    """A delegation's own calls say whose they are; what it may spend was settled before it began."""
    person = Person({})
    meta: Any = {"cycles-budget-mcp/delegation": "parent"}
    async with host("auto", person) as client:
        result = await client.call_tool("reserve_budget", {"usd": "1.50"}, meta=meta)

    assert result.structured_content is not None
    assert (result.structured_content["decision"], person.asked) == ("DENY", [])


async def test_the_question_says_how_often_the_budget_starts_anew(host: Host, environment: Environment) -> None:
    """A dollar a day and a dollar are not the same promise."""
    environment |= {"BUDGET_PERIOD": "day", "BUDGET_TIME_ZONE": "UTC"}
    person = Person("decline")
    async with host("auto", person) as client:
        await call(client, "reserve_budget", usd="2")

    assert "of the budget of $1.00 per day only $1.00 is left. Raise the budget to $2.00 per day?" in person.asked[0]


@pytest.mark.parametrize(("transport", "mode"), EVERY_WAY)
async def test_a_delegation_that_could_not_begin_is_asked_for_and_then_confirmed(
    environment: Environment, transport: str, mode: str
) -> None:
    """First the budget, then the go-ahead for what it may now spend, and only then does anything start."""
    environment |= {"ANTHROPIC_API_KEY": "k", "BUDGET_CONFIRM_USD": "0.01"}
    person = Person({"raise_to_usd": "1.50"}, {"go_ahead": True})
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        with anyio.fail_after(60):
            async with host_over(environment, transport, mode, person) as client:
                await call(client, "record_usage", usd="1.00")
                result = await call(client, "delegate_to_claude", task="Write\na poem.")

    raising, confirming = person.asked
    assert raising.startswith('A Claude sub-agent with the task "Write a poem." needs $0.')
    assert "of the budget of $1.00 only $0.00 is left" in raising
    assert "up to $0.50" in confirming
    assert (result["status"], allocated(environment)) == ("completed", 150 * CENT)
    assert "A person raised the budget to $1.50." in result["hint"]


@GENERATIONS
async def test_without_the_go_ahead_the_budget_is_not_raised_either(
    host: Host, environment: Environment, mode: str
) -> None:
    """Both answers are there before anything is done; a task that is none is refused without a question."""
    environment |= {"ANTHROPIC_API_KEY": "k", "BUDGET_CONFIRM_USD": "0.01"}
    person = Person({"raise_to_usd": "1.50"}, "decline")
    with anyio.fail_after(60):
        async with host(mode, person) as client:
            await call(client, "record_usage", usd="1.00")
            empty = await refused(client, "delegate_to_claude", task=" ")
            asked_for_empty = list(person.asked)
            said = await refused(client, "delegate_to_claude", task="Write.")

    assert (empty.startswith("INVALID_ARGUMENT: task is empty"), asked_for_empty) == (True, [])
    assert said.startswith("DECLINED: ")
    assert (len(person.asked), allocated(environment)) == (2, ALLOCATED)


async def test_no_more_is_asked_for_than_a_delegation_may_spend(host: Host, environment: Environment) -> None:
    """Its own limit is less than a turn could cost."""
    person = Person("decline")
    environment["ANTHROPIC_API_KEY"] = "k"
    async with ScriptedClaude([]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        with anyio.fail_after(60):
            async with host("auto", person) as client:
                await call(client, "record_usage", usd="1.00")
                await call(client, "delegate_to_claude", task="Write.", budget_usd="0.02")

    (question,) = person.asked
    assert "needs $0.02, but" in question
    assert "Raise the budget to $1.02?" in question


async def test_a_delegation_makes_do_with_what_is_left_without_a_question(host: Host, environment: Environment) -> None:
    """A shorter turn fits, so there is no denial to be asked about."""
    person = Person({})
    environment["ANTHROPIC_API_KEY"] = "k"
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        with anyio.fail_after(60):
            async with host("auto", person) as client:
                await call(client, "record_usage", usd="0.97")
                result = await call(client, "delegate_to_claude", task="Write.", max_output_tokens=8_000)

    assert (result["status"], person.asked) == ("completed", [])


@GENERATIONS
async def test_a_delegation_that_its_budget_ended_is_asked_for_when_it_is_resumed(
    host: Host, environment: Environment, mode: str
) -> None:
    """The model resumes it as the hint says, and a person decides."""
    person = Person("decline", {"raise_to_usd": "2"})
    environment["ANTHROPIC_API_KEY"] = "k"
    async with ScriptedClaude([Turn(text="Done.")]) as claude:
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        with anyio.fail_after(60):
            async with host(mode, person) as client:
                await call(client, "record_usage", usd="1.00")
                ended = await call(client, "delegate_to_claude", task="Write.")
                resumed = await call(client, "delegate_to_claude", resume=ended["delegation_id"])

    assert (ended["status"], resumed["status"]) == ("budget_exhausted", "completed")
    assert "do not ask for it again" in ended["hint"]
    assert person.asked[1].startswith(f"Delegation {ended['delegation_id']}, which its budget ended, needs $0.")
    assert allocated(environment) == 200 * CENT


def test_no_amount_of_dollars_is_said_so(environment: Environment) -> None:
    """Which setting, and what is wrong with it."""
    environment["BUDGET_RAISE_TO_USD"] = "lots"

    assert complaint_of(environment, "budget", "show").startswith("BUDGET_RAISE_TO_USD is wrong: ")
