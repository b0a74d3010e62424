"""The examples as people run them: subprocesses, against the ledger over HTTP and a Claude that plays a script."""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from runcycles import AsyncCyclesClient, CyclesConfig

from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.demo.scripted_claude import Answer, Failure, ScriptedClaude, ToolCall, Turn, Usage
from budget_tools.core.money import format_usd
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.request_options import RequestOptions
from budget_tools.pricing.tokens import most_input_tokens
from budget_tools.pricing.usage import TokenUsage

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"
DECORATED, LOOP = "decorated_call.py", "tool_loop.py"
MODEL = "claude-sonnet-5-5"
SECONDS = 120
PRICES = PriceBook.load()


def cost(input_tokens: int, output_tokens: int) -> int:
    """Price usage by the book, in microcents."""
    return PRICES.cost(MODEL, TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens)).amount_microcents


def turn(text: str, *calls: ToolCall, used: tuple[int, int]) -> Turn:
    """Write an answer of which it is known what it used: tokens in, tokens out."""
    return Turn(text=text, tool_calls=calls, usage=Usage(input_tokens=used[0], output_tokens=used[1]))


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A running ``cycles-budget-mcp authority``, and a key for it."""

    address: str
    key: str
    data_directory: Path

    async def get(self, what: str, **query: str) -> list[dict[str, Any]]:
        """Read over the wire, as any client may."""
        config = CyclesConfig(base_url=self.address, api_key=self.key, tenant="local")
        async with AsyncCyclesClient(config) as client:
            read = client.get_balances if what == "balances" else client.list_reservations
            response = await read(**query)
        assert response.body, response
        rows: list[dict[str, Any]] = response.body[what]
        return rows

    async def reservations(self) -> list[dict[str, Any]]:
        """List all reservations, the oldest first."""
        return await self.get("reservations", sort_by="created_at_ms", sort_dir="asc", include="committed_metadata")

    async def balance(self) -> dict[str, int]:
        """Give the tenant's budget in microcents."""
        (row,) = await self.get("balances", tenant="local")
        return {name: int(row[name]["amount"]) for name in ("allocated", "spent", "reserved", "remaining")}

    def metrics(self) -> list[dict[str, Any]]:
        """Give the metrics of all commits, the oldest first: the protocol takes them and never shows them."""
        store = LedgerStore(self.data_directory / LEDGER_FILE)
        query = "SELECT metrics FROM reservations WHERE metrics IS NOT NULL ORDER BY created_at_ms, reservation_id"
        try:
            return [json.loads(row[0]) for row in store.run(lambda ledger: list(ledger.db.execute(query)))]
        finally:
            store.close()


@pytest.fixture
def base_environment(tmp_path: Path) -> dict[str, str]:
    """What every process gets: nothing of the caller's own but PATH, and a home for the client's commit journal."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BUDGET_DATA_DIR": str(tmp_path / "data")}


@asynccontextmanager
async def authority(environment: Mapping[str, str], *, usd: str) -> AsyncIterator[Authority]:
    """Set a budget, create a key and serve them, all on the command line."""

    async def command(*arguments: str) -> str:
        done = await anyio.run_process([sys.executable, "-m", "budget_server", *arguments], env=environment)
        return done.stdout.decode().strip()

    await command("budget", "allocate", usd)
    key = await command("authority", "key", "create")
    serve = [sys.executable, "-m", "budget_server", "authority", "--port", "0"]
    async with await anyio.open_process(serve, env=environment, stderr=PIPE) as process:
        try:
            assert process.stderr
            said = (await BufferedByteReceiveStream(process.stderr).receive_until(b"\n", 1_000)).decode()
            address = next(word for word in said.split() if word.startswith("http://"))
            yield Authority(address=address, key=key, data_directory=Path(environment["BUDGET_DATA_DIR"]))
        finally:
            process.terminate()


async def run(name: str, environment: Mapping[str, str], *arguments: str) -> "CompletedProcess[str]":
    """Run an example; whatever warns in it shows, but that it leaves its connections to the exit."""
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", str(EXAMPLES / name), *arguments]
    done = await anyio.run_process(command, env=environment, check=False)
    return CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def settings(base: Mapping[str, str], served: Authority, claude: ScriptedClaude) -> dict[str, str]:
    """Give the environment that the examples ask for."""
    return {
        **{name: value for name, value in base.items() if name != "BUDGET_DATA_DIR"},
        "CYCLES_BASE_URL": served.address,
        "CYCLES_API_KEY": served.key,
        "CYCLES_TENANT": "local",
        "ANTHROPIC_API_KEY": "any",
        "ANTHROPIC_BASE_URL": claude.base_url,
    }


async def test_a_decorated_call_reserves_its_bound_and_is_charged_its_cost(base_environment: dict[str, str]) -> None:
    """The table of prices in the example is that of the book, and the commit carries tokens, time and model."""
    question = "Wozu ein Budget für jede Frage?"
    bound = PRICES.worst_case(
        MODEL,
        input_tokens=len(question.encode()) + 600,
        max_output_tokens=500,
        options=RequestOptions(inference_geo="global"),
    )
    script = [turn("So that it has an end.", used=(23, 9))]
    with anyio.fail_after(SECONDS):
        async with authority(base_environment, usd="1") as served, ScriptedClaude(script) as claude:
            done = await run(DECORATED, settings(base_environment, served, claude), question)
            (reservation,) = await served.reservations()
            balance = await served.balance()
            (request,) = claude.message_requests

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["So that it has an end.", "Charged $0.00013600 of $0.00626400 reserved."]
    assert (reservation["status"], reservation["action"]) == (
        "COMMITTED",
        {"kind": "llm.completion", "name": MODEL, "tags": ["decorated-call"]},
    )
    assert (reservation["reserved"]["amount"], reservation["committed"]["amount"]) == (bound, cost(23, 9))
    assert "committed_metadata" not in reservation
    assert balance == {
        "allocated": 100_000_000,
        "spent": cost(23, 9),
        "reserved": 0,
        "remaining": 100_000_000 - cost(23, 9),
    }
    assert request.body["max_tokens"] == 500
    (metrics,) = served.metrics()
    assert metrics.pop("latency_ms") >= 0
    assert metrics == {
        "tokens_input": 23,
        "tokens_output": 9,
        "model_version": MODEL,
        "custom": {"stop_reason": "end_turn"},
    }


async def test_a_decorated_call_that_the_budget_does_not_cover_is_not_sent(base_environment: dict[str, str]) -> None:
    """A denial is an answer: one sentence with the amount and the reason, and nothing else happens."""
    with anyio.fail_after(SECONDS):
        async with authority(base_environment, usd="0.001") as served, ScriptedClaude() as claude:
            done = await run(DECORATED, settings(base_environment, served, claude), "Hello?")
            reservations = await served.reservations()
            balance = await served.balance()

    assert (done.returncode, done.stderr) == (1, "")
    (sentence,) = done.stdout.splitlines()
    assert sentence.startswith("Nothing was sent: $0.00621200 could not be reserved (BUDGET_EXCEEDED).")
    assert claude.requests == []
    assert reservations == []
    assert balance == {"allocated": 100_000, "spent": 0, "reserved": 0, "remaining": 100_000}


async def test_each_turn_of_the_loop_has_a_reservation_and_a_charge_of_its_own(
    base_environment: dict[str, str],
) -> None:
    """The tools run, a wrong use of one is told to the model, and the ledger can say what each turn was for."""
    script = [
        turn("I look.", ToolCall("part_price", {"part": "chain-11"}), ToolCall("part_price", {"part": "moon"}),
             used=(401, 77)),
        turn("I reckon.", ToolCall("calculate", {"operation": "multiply", "a": 3, "b": 2890}), used=(602, 41)),
        turn("$86.70.", used=(713, 12)),
    ]  # fmt: skip
    charges = [cost(401, 77), cost(602, 41), cost(713, 12)]
    with anyio.fail_after(SECONDS):
        async with authority(base_environment, usd="1") as served, ScriptedClaude(script) as claude:
            done = await run(LOOP, settings(base_environment, served, claude), "Three chains?")
            reservations = await served.reservations()
            balance = await served.balance()
            bodies = [request.body for request in claude.message_requests]

    assert (done.returncode, done.stderr) == (0, "")
    bounds = [
        PRICES.worst_case(MODEL, input_tokens=most_input_tokens(body), max_output_tokens=1_000) for body in bodies
    ]
    assert done.stdout.splitlines() == [
        *(
            f"Turn {number}: ${format_usd(bound)} reserved, ${format_usd(charge)} charged."
            for number, bound, charge in zip((1, 2, 3), bounds, charges, strict=True)
        ),
        "$86.70.",
    ]
    assert [reservation["action"]["tags"] for reservation in reservations] == [
        ["tool-loop", "turn-1"],
        ["tool-loop", "turn-2"],
        ["tool-loop", "turn-3"],
    ]
    assert {reservation["status"] for reservation in reservations} == {"COMMITTED"}
    assert [reservation["reserved"]["amount"] for reservation in reservations] == bounds
    assert [reservation["committed"]["amount"] for reservation in reservations] == charges
    spent = sum(charges)
    assert balance == {"allocated": 100_000_000, "spent": spent, "reserved": 0, "remaining": 100_000_000 - spent}
    metrics = served.metrics()
    assert [(each["tokens_input"], each["tokens_output"]) for each in metrics] == [(401, 77), (602, 41), (713, 12)]
    assert [each["model_version"] for each in metrics] == [MODEL] * 3
    assert [each["custom"] for each in metrics] == [
        {"turn": 1, "stop_reason": "tool_use", "tool_calls": 2},
        {"turn": 2, "stop_reason": "tool_use", "tool_calls": 1},
        {"turn": 3, "stop_reason": "end_turn", "tool_calls": 0},
    ]
    first, wrong = bodies[1]["messages"][-1]["content"]
    assert first["content"] == "2890 cents"
    assert (wrong["is_error"], wrong["content"]) == (True, "KeyError('moon')")
    assert bodies[2]["messages"][-1]["content"][0]["content"] == "8670"


async def test_the_loop_stops_at_the_turn_that_the_budget_does_not_cover(base_environment: dict[str, str]) -> None:
    """It says what was answered so far; the turn that was denied was never sent, and nothing is overspent."""

    def script(_request: Mapping[str, Any], number: int) -> Turn:
        return turn(f"Part {number}.", ToolCall("part_price", {"part": "bell-brass"}), used=(500, 900))

    allocated = 3_000_000
    with anyio.fail_after(SECONDS):
        async with authority(base_environment, usd="0.03") as served, ScriptedClaude(script) as claude:
            done = await run(LOOP, settings(base_environment, served, claude))
            reservations = await served.reservations()
            balance = await served.balance()

    *turns, stopped, so_far = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert len(turns) == len(reservations) == len(claude.message_requests) == 2
    assert stopped.startswith("Stopped: $")
    assert "could not be reserved for turn 3 (BUDGET_EXCEEDED)." in stopped
    assert so_far == "Answered so far: Part 1. Part 2."
    assert balance == {
        "allocated": allocated,
        "spent": 2 * cost(500, 900),
        "reserved": 0,
        "remaining": allocated - 2 * cost(500, 900),
    }


async def test_the_loop_takes_five_turns_at_most(base_environment: dict[str, str]) -> None:
    """A model that never comes to an end is no reason to spend all there is."""

    def script(_request: Mapping[str, Any], _number: int) -> Turn:
        return turn("Once more.", ToolCall("calculate", {"operation": "add", "a": 1, "b": 1}), used=(10, 10))

    with anyio.fail_after(SECONDS):
        async with authority(base_environment, usd="1") as served, ScriptedClaude(script) as claude:
            done = await run(LOOP, settings(base_environment, served, claude))
            balance = await served.balance()

    assert done.returncode == 1
    assert "Stopped: 5 turns are the most" in done.stdout
    assert len(claude.message_requests) == 5
    assert (balance["spent"], balance["reserved"]) == (5 * cost(10, 10), 0)


@pytest.mark.parametrize("example", [DECORATED, LOOP])
async def test_only_what_surely_cost_nothing_goes_back(base_environment: dict[str, str], example: str) -> None:
    """A call is made once; one that may be on the bill is charged at its bound, whatever became of it."""
    refused, broke_off = "Claude did not take ", " broke off ("
    cases: list[tuple[Answer, str, str]] = [
        (Failure(status=529), "RELEASED", refused),
        (Failure(status=500), "COMMITTED", broke_off),
        (Turn(text="Half", fault="drop_mid_stream"), "COMMITTED", broke_off),
        (Turn(text="Whole", fault="no_usage"), "COMMITTED", ""),
    ]
    with anyio.fail_after(SECONDS):
        async with (
            authority(base_environment, usd="1") as served,
            ScriptedClaude([answer for answer, _, _ in cases]) as claude,
        ):
            environment = settings(base_environment, served, claude)
            said = [(await run(example, environment)).stdout for _ in cases]
            reservations = await served.reservations()
            balance = await served.balance()

    assert len(claude.message_requests) == len(cases)
    assert [reservation["status"] for reservation in reservations] == [status for _, status, _ in cases]
    for words, (_, _, expected) in zip(said, cases, strict=True):
        assert expected in words
    bound = reservations[0]["reserved"]["amount"]
    assert (balance["spent"], balance["reserved"]) == (3 * bound, 0)


@pytest.mark.parametrize("example", [DECORATED, LOOP])
async def test_settings_that_are_missing_are_said_in_one_sentence(
    base_environment: dict[str, str], example: str
) -> None:
    """Nothing is tried with half of the settings."""
    some = {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "any", "CYCLES_TENANT": ""}
    with anyio.fail_after(SECONDS):
        done = await run(example, base_environment | some)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Set CYCLES_TENANT, ANTHROPIC_API_KEY first: examples/README.md says to what.\n"
