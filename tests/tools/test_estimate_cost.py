"""What a host learns before it spends: prices side by side, and advice that holds when it is followed."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from anthropic.types import Model
from mcp import Client

from budget_server.config.settings import Settings
from budget_server.demo.scripted_claude import ScriptedClaude
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.tokens import MOST_PROMPT_TOKENS
from hosting import call

pytestmark = pytest.mark.anyio

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}

Open = Callable[..., Services]


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Open]:
    """What opens a process with a budget and further settings; it is closed at the end."""
    opened: list[Services] = []

    def open_services(usd: str = "1.00", **settings: Any) -> Services:
        opened.append(Services(Settings(budget_data_dir=tmp_path, budget_usd=usd, **settings)))
        return opened[-1]

    yield open_services
    for services in opened:
        await services.aclose()


async def estimate(services: Services, **arguments: object) -> dict[str, Any]:
    """Call the tool in memory."""
    with anyio.fail_after(30):
        async with Client(create_server(services)) as client:
            return await call(client, "estimate_cost", **arguments)


async def test_a_shorter_answer_that_is_advised_fits_and_a_longer_one_does_not(process: Open) -> None:
    """Advice is worth its number: to the token."""
    services = process("0.01")
    asked = {"model": SONNET, "input_tokens": 1_000}

    advised = await estimate(services, **asked, max_output_tokens=8_000)

    found = re.search(r"max_output_tokens of (\d+)", advised["hint"])
    assert found, advised["hint"]
    most = int(found[1])
    assert (await estimate(services, **asked, max_output_tokens=most))["estimates"][0]["affordable"] is True
    assert (await estimate(services, **asked, max_output_tokens=most + 1))["estimates"][0]["affordable"] is False


async def test_a_cheaper_model_that_is_advised_fits(process: Open) -> None:
    """Named with what it would cost at most."""
    services = process("0.02")
    asked = {"input_tokens": 2_000, "max_output_tokens": 2_000}

    advised = await estimate(services, **asked, model=OPUS)

    found = re.search(r"(claude-\S+) at (\$\S+) would", advised["hint"])
    assert found, advised["hint"]
    followed = (await estimate(services, **asked, model=found[1]))["estimates"][0]
    assert followed["affordable"] is True
    assert f"${followed['worst_case']['usd']}" == found[2]
    assert followed["warning"] == ""


async def test_of_several_that_were_asked_one_that_fits_is_named(process: Open) -> None:
    """Side by side, in the order asked."""
    compared = await estimate(
        process("0.02"), models=[OPUS, SONNET, HAIKU], input_tokens=2_000, max_output_tokens=2_000
    )

    assert [each["model"] for each in compared["estimates"]] == [OPUS, SONNET, HAIKU]
    assert [each["affordable"] for each in compared["estimates"]] == [False, False, True]
    assert compared["hint"] == f"{HAIKU} fits what remains."


async def test_where_nothing_fits_it_says_who_can_help(process: Open) -> None:
    """No advice is better than advice that cannot be followed."""
    told = await estimate(process("0.00000001"), model=SONNET, input_tokens=2_000_000_000)

    assert "raise the budget" in told["hint"]


async def test_advice_never_stands_in_the_way_of_an_estimate(process: Open) -> None:
    """So many tokens that a dearer model's bound is past all amounts: what was asked is still answered."""
    told = await estimate(process(), model=HAIKU, input_tokens=3 * 10**16, max_output_tokens=1)

    assert told["estimates"][0]["affordable"] is False
    assert "raise the budget" in told["hint"]


def test_no_model_is_advised_that_is_no_longer_offered() -> None:
    """anthropic, types/model.py: an id may leave the list without a date."""
    in_service = PriceBook.load().in_service(at=datetime(2026, 12, 1, tzinfo=UTC))
    listed = {name for part in get_args(Model) for name in get_args(part)}

    assert {OPUS, SONNET, HAIKU} <= set(in_service)
    assert {model for model in in_service if model not in listed} == set()


async def test_the_turns_of_a_loop_that_fit_are_counted_as_its_context_grows(process: Open) -> None:
    """So many turns fit, and one more does not: every turn sends again what came before."""
    services = process("0.50")
    asked = {"model": SONNET, "input_tokens": 5_000, "max_output_tokens": 2_000}

    loop = (await estimate(services, **asked, turns=100))["estimates"][0]
    fitting = (await estimate(services, **asked, turns=loop["affordable_turns"]))["estimates"][0]
    beyond = (await estimate(services, **asked, turns=loop["affordable_turns"] + 1))["estimates"][0]
    calls = (await estimate(services, **asked))["estimates"][0]

    assert (loop["affordable"], fitting["affordable"], beyond["affordable"]) == (False, True, False)
    assert calls["affordable_turns"] > loop["affordable_turns"]


async def test_a_model_that_is_gone_is_priced_with_a_warning(process: Open) -> None:
    """Old bills can still be checked, but nobody should plan with it."""
    services = process("1.00")
    (old,) = (await estimate(services, model="claude-3-opus-20240229", input_tokens=1_000))["estimates"]
    (new,) = (await estimate(services, model=SONNET, input_tokens=1_000))["estimates"]
    async with Client(create_server(services)) as client:
        held = await call(
            client, "reserve_budget", model="claude-3-opus-20240229", input_tokens=10, max_output_tokens=10
        )

    gone = "claude-3-opus-20240229 was retired on 2026-01-05: the API refuses it."
    assert old["warning"] == gone
    assert new["warning"] == ""
    assert gone in held["hint"]


@pytest.mark.parametrize(
    ("day", "says"), [(29, "will be retired on 2026-11-30"), (30, "was retired on 2026-11-30"), (31, "was retired")]
)
def test_a_retirement_is_ahead_until_its_day(day: int, says: str) -> None:
    """anthropic, DEPRECATED_MODELS."""
    at = datetime(2026, 12, 1, tzinfo=UTC) if day == 31 else datetime(2026, 11, day, 23, tzinfo=UTC)

    assert says in PriceBook.load().lifecycle_note("claude-sonnet-4-5", at=at)


async def test_a_pdf_is_bounded_by_the_longest_prompt_without_a_key(process: Open) -> None:
    """Only the API sees its pages: the bound is wide, and still one."""
    messages = [{"role": "user", "content": [PDF, {"type": "text", "text": "What is it?"}]}]

    (told,) = (await estimate(process(), model=SONNET, messages=messages))["estimates"]

    assert (told["input_tokens"], told["input_tokens_source"]) == (MOST_PROMPT_TOKENS, "estimated")


async def test_a_pdf_is_counted_with_a_key_and_nothing_is_asked_of_a_model(process: Open) -> None:
    """Token counts never go through inference."""
    messages = [{"role": "user", "content": [PDF, {"type": "text", "text": "What is it?"}]}]
    async with ScriptedClaude() as endpoint:
        services = process(anthropic_api_key="k", anthropic_base_url=endpoint.base_url)
        (told,) = (await estimate(services, model=SONNET, messages=messages))["estimates"]

    assert told["input_tokens_source"] == "counted"
    assert told["input_tokens"] < 1_000
    assert [request.path for request in endpoint.requests] == ["/v1/messages/count_tokens"]


async def test_where_the_api_does_not_count_it_is_estimated_and_says_so(process: Open) -> None:
    """Its own failures fall back, labelled."""
    services = process(anthropic_api_key="k", anthropic_base_url="http://127.0.0.1:9")

    (told,) = (await estimate(services, model=SONNET, prompt="Hello"))["estimates"]

    assert told["input_tokens_source"] == "estimated"


async def test_a_prompt_of_ten_megabytes_is_answered(process: Open) -> None:
    """Bounded time and memory: it is measured, not copied about."""
    (told,) = (await estimate(process(), model=SONNET, prompt="spoke " * 1_700_000))["estimates"]

    assert told["input_tokens"] > 4_000_000
    assert told["affordable"] is False
