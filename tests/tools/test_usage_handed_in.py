"""``commit_usage`` and ``record_usage`` with usage of every kind, as a host calls them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from budget_server.config.settings import Settings
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from hosting import call, ledger_balance, refused, text_of

pytestmark = pytest.mark.anyio

MODEL = "claude-sonnet-5-5"
USAGE = {"input_tokens": 100, "output_tokens": 50}
WAY_OUT = "give what was billed as usd instead"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A host of a process with one dollar in its ledger."""
    made = Services(Settings(budget_data_dir=tmp_path, budget_usd="1.00"))
    with anyio.fail_after(20):
        async with Client(create_server(made)) as connected:
            yield connected
    await made.aclose()


async def settled(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Book usage by either of the tools."""
    if tool == "commit_usage":
        held = await call(client, "reserve_budget", usd="0.50")
        arguments["reservation_id"] = held["reservation_id"]
    return await call(client, tool, **arguments)


@pytest.mark.parametrize("tool", ["commit_usage", "record_usage"])
async def test_usage_of_other_libraries_is_charged_at_its_price(client: Client, tool: str) -> None:
    """17 % less is what it would cost if its whole prompt were taken for plain input."""
    details = {"cache_creation": 12_304, "cache_read": 0}
    usage = {"input_tokens": 12_307, "output_tokens": 550, "total_tokens": 12_857, "input_token_details": details}

    booked = await settled(client, tool, model=MODEL, usage=usage)

    assert booked["charged"]["amount"] == 3_626_600
    assert "priced as 5 minutes" in booked["warnings"][0]


@pytest.mark.parametrize("tool", ["commit_usage", "record_usage"])
@pytest.mark.parametrize(
    ("usage", "named"),
    [
        ({"input_tokens": 3, "output_tokens": 5, "cached_tokens": 100_000}, "cached_tokens"),
        ({"input_tokens": 8, "output_tokens": 1, "reasoning_tokens": 5_000}, "reasoning_tokens"),
        ({**USAGE, "thoughts": 5_000}, "thoughts"),
        ({**USAGE, "compute_units": 3}, "compute_units"),
        ({**USAGE, "search_queries": 3}, "search_queries"),
        ({**USAGE, "fee": 0.5}, "fee"),
        ({**USAGE, "cost": {"amount": 0.5, "currency": "USD"}}, "cost.amount"),
        ({**USAGE, "cost": [0.5]}, "cost"),
        ({**USAGE, "cost": "0.50 USD"}, 'cost "0.50 USD" cannot be read'),
        ({**USAGE, "total_cost": "1e400"}, "total_cost"),
        ({"input_tokens": 0, "output_tokens": 0}, "no prompt"),
        ({**USAGE, "service_tier": "flex"}, "service_tier"),
        ({**USAGE, "inference_geo": "eu"}, "inference_geo"),
        ({**USAGE, "iterations": [{"type": "dreaming", **USAGE}]}, "iterations.0.type"),
        ({**USAGE, "iterations": [{"type": "message", "model": "m-1", **USAGE}]}, "m-1"),
        ([USAGE, {}], "[1].input_tokens"),
        (5, "object"),
    ],
)
async def test_usage_without_a_certain_price_is_refused_with_the_way_out(
    client: Client, tmp_path: Path, tool: str, usage: object, named: str
) -> None:
    """One sentence that names the field and says what to give instead; nothing is booked, and the reservation stays."""
    arguments: dict[str, Any] = {"model": MODEL, "usage": usage}
    if tool == "commit_usage":
        arguments["reservation_id"] = (await call(client, "reserve_budget", usd="0.90"))["reservation_id"]

    sentence = await refused(client, tool, **arguments)

    assert sentence.startswith("USAGE_UNKNOWN: ")
    assert named in sentence
    assert WAY_OUT in sentence
    assert ledger_balance({"BUDGET_DATA_DIR": str(tmp_path)})["spent"] == 0
    if tool == "commit_usage":
        booked = await call(client, tool, reservation_id=arguments["reservation_id"], usd="0.10")
        assert booked["charged"]["usd"] == "0.10"


@pytest.mark.parametrize(
    "words",
    [{"service_tier": word} for word in ("", "auto", "default", "STANDARD", "standard_only")]
    + [{"speed": word} for word in ("", "normal")]
    + [{"inference_geo": word} for word in ("", "GLOBAL", "not_available")],
)
async def test_words_for_the_standard_price_cost_the_standard_price(client: Client, words: dict[str, str]) -> None:
    """Requests and gateways have many."""
    assert (await call(client, "record_usage", model=MODEL, usage={**USAGE, **words}))["charged"]["amount"] == 70_000


@pytest.mark.parametrize(
    ("cost", "is_warned"),
    [
        *((0.5, True), ("0.0007", False), (0.00069998, False), (0.0006, True), (0, False)),
        *(("$0.50", True), ("0.00", False), ("unknown", False), (None, False), ({"total": 0.5, "input": 0.2}, True)),
    ],
)
async def test_another_cost_beside_the_counts_is_told(client: Client, cost: object, is_warned: bool) -> None:
    """The tokens are priced; whoever knows of another bill hears that it differs."""
    result = await client.call_tool("record_usage", {"model": MODEL, "usage": {**USAGE, "cost": cost}})

    assert result.structured_content is not None
    assert result.structured_content["charged"]["amount"] == 70_000
    assert [("says cost" in each) for each in result.structured_content["warnings"]] == [True] * is_warned
    assert ("Warning: the usage says cost" in text_of(result)) == is_warned


@pytest.mark.parametrize("tool", ["commit_usage", "record_usage"])
async def test_the_calls_of_a_session_cost_what_each_of_them_costs(client: Client, tool: str) -> None:
    """24 calls of 10,000 tokens: one call of 240,000 would cost five times as much with this model."""
    each = {"input_tokens": 10_000, "output_tokens": 100}
    summed = {"input_tokens": 240_000, "output_tokens": 2_400}
    model = "claude-haiku-5-5"

    listed = await settled(client, tool, model=model, usage=[each] * 24)
    by_number = await settled(client, tool, model=model, usage=summed, calls=24)
    as_one = await settled(client, tool, model=model, usage=summed)
    one_said = await settled(client, tool, model=model, usage=summed, calls=1)

    assert listed["charged"]["amount"] == by_number["charged"]["amount"] == 2_520_000
    assert as_one["charged"]["amount"] == one_said["charged"]["amount"] == 12_600_000
    assert (listed["warnings"], one_said["warnings"]) == ([], [])
    assert "only a list of usages is exact" in by_number["warnings"][0]
    assert "give calls or a list of usages" in as_one["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"usd": "0.10", "calls": 2}, "exactly one way"),
        ({"model": MODEL, "calls": 2}, "both of model with usage"),
        ({"model": MODEL, "usage": [USAGE], "calls": 2}, "calls"),
        ({"model": MODEL, "usage": USAGE, "calls": 0}, "calls"),
        ({"model": MODEL, "usage": USAGE, "calls": 101}, "fewer prompt tokens than calls"),
        ({"model": MODEL, "usage": {**USAGE, "cache_read_tokens": 0, "requests": 3}, "calls": 2}, "calls (2)"),
    ],
)
async def test_calls_that_say_nothing_or_something_else_are_refused(
    client: Client, arguments: dict[str, Any], named: str
) -> None:
    """They go with one sum of usage."""
    assert named in await refused(client, "record_usage", **arguments)


async def test_usage_in_text_is_read_as_what_it_says(client: Client) -> None:
    """Some models write an object as text."""
    booked = await call(client, "record_usage", model=MODEL, usage=json.dumps(USAGE))

    assert booked["charged"]["amount"] == 70_000


async def test_an_answer_of_no_output_is_charged_and_told(client: Client) -> None:
    """It is possible, and it is what a gateway reports that lost the count."""
    booked = await call(client, "record_usage", model=MODEL, usage={"input_tokens": 100, "output_tokens": 0})

    assert booked["charged"]["amount"] == 20_000
    assert "counts no output" in booked["warnings"][0]


async def test_the_usage_of_a_whole_session_of_claude_code_is_booked(client: Client) -> None:
    """Its ``modelUsage`` names the models by itself, sometimes by their dated form."""
    counts = {
        "inputTokens": 100,
        "outputTokens": 50,
        "cacheReadInputTokens": 0,
        "cacheCreationInputTokens": 0,
        "webSearchRequests": 0,
        "costUSD": 0.0007,
        "contextWindow": 200_000,
        "maxOutputTokens": 32_000,
    }

    booked = await call(client, "record_usage", model=MODEL, usage={f"{MODEL}-20261007": counts})

    assert (booked["charged"]["amount"], booked["warnings"]) == (70_000, [])
