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
from budget_tools.pricing.request_options import RequestOptions
from budget_tools.pricing.tokens import MOST_PROMPT_TOKENS
from hosting import call, refused

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


# ---- what a request holds beside its prompt

FIVE_MINUTES, AN_HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
HELLO = {"type": "text", "text": "Hello"}
LOOKUP = {"name": "lookup", "description": "Look up.", "input_schema": {"type": "object"}}


async def bound_of(services: Services, **arguments: object) -> int:
    """The worst case in microcents of a call on Opus 5.5 that is inferred anywhere."""
    arguments = {"model": OPUS, "max_output_tokens": 1, **arguments}
    options = {"inference_geo": "global", **(arguments.pop("options", None) or {})}  # type: ignore[dict-item]
    told = await estimate(services, **arguments, options=options)
    return int(told["estimates"][0]["worst_case"]["amount"])


@pytest.mark.parametrize(
    ("options", "microcents", "covers"),
    [
        (None, 440_000_000 + 22_000, "no cache writes (options.cache covers them), standard speed, any geography"),
        ({"cache": "5m"}, 550_000_000 + 22_000, "cache writes for 5 minutes, standard speed, any geography"),
        ({"cache": "1h"}, 880_000_000 + 22_000, "cache writes for up to 1 hour, standard speed, any geography"),
        ({"cache_control": AN_HOUR}, 880_000_000 + 22_000, "cache writes for up to 1 hour"),
        ({"speed": "fast"}, 880_000_000 + 44_000, "fast mode"),
        ({"inference_geo": "global"}, 400_000_000 + 20_000, "global inference only"),
        ({"inference_geo": "us"}, 440_000_000 + 22_000, "any geography"),
        ({"batch": True, "inference_geo": "global"}, 200_000_000 + 10_000, "batches only"),
        ({"service_tier": "batch", "inference_geo": "global"}, 200_000_000 + 10_000, "batches only"),
        ({"service_tier": "standard_only", "speed": "standard", "cache": None}, 440_000_000 + 22_000, "standard speed"),
        ({"thinking": {"type": "adaptive"}, "metadata": {}}, 440_000_000 + 22_000, "standard speed"),
    ],
)
async def test_a_request_is_bounded_as_it_is_stated_and_the_promise_says_so(
    process: Open, options: dict[str, Any] | None, microcents: int, covers: str
) -> None:
    """Anthropic, "Pricing": writes 1.25 and 2 times, fast mode twice, the US 1.1 times, batches half."""
    services = process("20.00")
    asked = {"model": OPUS, "input_tokens": 1_000_000, "max_output_tokens": 10, "options": options}

    told = await estimate(services, **asked)
    async with Client(create_server(services)) as client:
        held = await call(client, "reserve_budget", **{**asked, "dry_run": True})

    assert told["estimates"][0]["worst_case"]["amount"] == held["reserved"]["amount"] == microcents
    assert covers in told["covers"]
    assert held["covers"] == told["covers"]


@pytest.mark.parametrize(
    ("arguments", "factor"),
    [
        ({"messages": [{"role": "user", "content": [HELLO]}]}, 4),
        ({"messages": [{"role": "user", "content": [{**HELLO, "cache_control": None}]}]}, 4),
        ({"messages": [{"role": "user", "content": [{**HELLO, "cache_control": FIVE_MINUTES}]}]}, 5),
        ({"messages": [{"role": "user", "content": [{**HELLO, "cache_control": AN_HOUR}]}]}, 8),
        ({"prompt": "Hello", "system": [{**HELLO, "cache_control": AN_HOUR}]}, 8),
        ({"prompt": "Hello", "tools": [{**LOOKUP, "cache_control": AN_HOUR}]}, 8),
        ({"prompt": "Hello", "tools": [LOOKUP], "system": [{**HELLO, "cache_control": FIVE_MINUTES}]}, 5),
        (
            {
                "prompt": "Hello",
                "system": [{**HELLO, "cache_control": FIVE_MINUTES}],
                "options": {"cache_control": AN_HOUR},
            },
            8,
        ),
        ({"prompt": "Hello", "system": [{**HELLO, "cache_control": AN_HOUR}], "options": {"cache": "none"}}, 8),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "t",
                                "content": [{**HELLO, "cache_control": AN_HOUR}],
                            }
                        ],
                    }
                ]
            },
            8,
        ),
        # What a program hands to a tool is data, whatever it is called.
        (
            {
                "messages": [
                    {"role": "user", "content": "Hello"},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "t", "name": "lookup", "input": {"cache_control": AN_HOUR}}
                        ],
                    },
                ]
            },
            4,
        ),
        (
            {
                "prompt": "Hello",
                "tools": [
                    {
                        "name": "t",
                        "input_schema": {"type": "object", "properties": {"cache_control": {"type": "string"}}},
                    }
                ],
            },
            4,
        ),
    ],
)
async def test_every_cache_control_of_a_request_is_seen(process: Open, arguments: dict[str, Any], factor: int) -> None:
    """Messages API, prompt caching: a breakpoint anywhere writes what stands before it; the longest lifetime counts."""
    services = process()
    plain = PriceBook.load().worst_case(
        OPUS, input_tokens=0, max_output_tokens=1, options=RequestOptions(inference_geo="global")
    )

    bound = await bound_of(services, **arguments)

    # The prompt's bytes are the same either way, so its price a token shows in the bound.
    prompt_tokens, rest = divmod(bound - plain, factor * 100)
    assert rest == 0
    assert 600 < prompt_tokens < 1_000


@pytest.mark.parametrize(
    "tool",
    [
        "web_search_20250305",
        "web_search_20260318",
        "web_fetch_20250910",
        "code_execution_20260521",
        "tool_search_tool_bm25",
        "tool_search_tool_regex_20251119",
        "advisor_20260301",
        "mcp_toolset",
        "oracle_20270101",
    ],
)
async def test_a_tool_that_runs_at_the_api_leaves_no_bound_and_says_why(process: Open, tool: str) -> None:
    """Anthropic, "Tool reference": what a server tool reads is billed, and nobody knows it before."""
    services = process()
    tools = [LOOKUP, {"type": tool, "name": "it"}]

    for prompt in ({"prompt": "Hello"}, {"input_tokens": 1_000}):
        told = await estimate(services, model=SONNET, tools=tools, **prompt)

        (each,) = told["estimates"]
        assert (each.get("worst_case"), each.get("affordable"), told["covers"]) == (None, None, "")
        assert each["expected"]["amount"] > 0
        assert f'no worst case, because "{tool}"' in told["hint"]
        assert "reserve_budget (usd)" in told["hint"]


@pytest.mark.parametrize(
    "field",
    [
        {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "it"}]},
        {"fallbacks": [{"model": "claude-opus-5-5"}]},
        {"fallbacks": "default"},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        {"compaction": {"type": "summarize"}},
        {"thread": {"type": "create"}},
        {"container": "container_1"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_a_request_that_the_api_goes_on_with_by_itself_is_refused_a_bound(
    process: Open, field: dict[str, Any]
) -> None:
    """An estimate is still told; a reservation asks for an amount of the caller's own, and holds nothing."""
    services = process()
    name = next(iter(field))

    told = await estimate(services, model=SONNET, prompt="Hello", options=field)
    async with Client(create_server(services)) as client:
        refusal = await refused(
            client, "reserve_budget", model=SONNET, input_tokens=10, max_output_tokens=10, options=field
        )

    assert told["estimates"][0].get("worst_case") is None
    shown = "web_search_20250305" if name == "tools" else name
    assert "no worst case" in told["hint"]
    assert shown in told["hint"]
    assert "no worst case" in refusal
    assert shown in refusal
    assert "usd" in refusal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mcp_servers", []),
        ("mcp_servers", None),
        ("fallbacks", []),
        ("context_management", {"edits": [{"type": "clear_tool_uses_20250919"}]}),
        ("tools", [LOOKUP, {"type": "custom", **LOOKUP}, {"type": "bash_20250124", "name": "bash"}]),
    ],
)
async def test_what_only_looks_like_such_a_request_keeps_its_bound(process: Open, field: str, value: object) -> None:
    """Empty lists, edits that only shorten the prompt, and tools that the caller runs."""
    services = process()

    with_it = await estimate(services, model=SONNET, input_tokens=100, options={field: value})
    without = await estimate(services, model=SONNET, input_tokens=100)

    assert with_it["estimates"] == without["estimates"]


@pytest.mark.parametrize(
    ("tool", "is_bounded"),
    [
        ("bash_20250124", True),
        ("text_editor_20250728", True),
        ("computer_20251124", True),
        ("memory_20250818", False),
        ("computer_toolset_20260801", False),
        ("browser_toolset_20260801", False),
    ],
)
async def test_a_client_tool_that_the_api_defines_is_bounded_if_its_definition_can_be(
    process: Open, tool: str, is_bounded: bool
) -> None:
    """Its definition is the API's, so its length is not in the request; with a key the API counts it."""
    asked = {"model": SONNET, "prompt": "Hello", "tools": [{"type": tool, "name": "it"}]}
    uncounted = await estimate(process(), **asked)
    plain = await estimate(process(), model=SONNET, prompt="Hello")
    async with ScriptedClaude() as endpoint:
        counted = await estimate(process(anthropic_api_key="k", anthropic_base_url=endpoint.base_url), **asked)

    (bound,) = (each.get("worst_case") for each in uncounted["estimates"])
    assert (bound is not None) == is_bounded
    if bound is None:
        assert "is not seen here" in uncounted["hint"]
    else:
        assert bound["amount"] - plain["estimates"][0]["worst_case"]["amount"] >= 1_234 * 220
    assert counted["estimates"][0]["input_tokens_source"] == "counted"
    assert counted["estimates"][0]["worst_case"]["amount"] > 0


async def test_tools_among_the_options_are_counted_as_those_beside_them(process: Open) -> None:
    """A request's fields may be handed over as they are."""
    services = process()
    asked = {"model": SONNET, "prompt": "Hello"}

    among = await estimate(services, **asked, options={"tools": [LOOKUP]})
    beside = await estimate(services, **asked, tools=[LOOKUP])

    assert among["estimates"] == beside["estimates"]


async def test_what_a_loop_with_a_cache_is_expected_to_cost_reads_what_it_wrote(process: Open) -> None:
    """Prompt caching: the first turn writes the prompt, each later one reads it and writes what was added."""
    services = process()
    asked = {"model": SONNET, "input_tokens": 10_000, "max_output_tokens": 1_000, "expected_output_tokens": 1_000}

    (once,) = (await estimate(services, **asked, options={"cache": "5m"}))["estimates"]
    (twice,) = (await estimate(services, **asked, options={"cache": "5m"}, turns=2))["estimates"]

    assert once["expected"]["amount"] == 10_000 * 250 + 1_000 * 1_000
    assert twice["expected"]["amount"] - once["expected"]["amount"] == 10_000 * 10 + 1_000 * 250 + 1_000 * 1_000
    assert twice["worst_case"]["amount"] == (21_000 * 250 + 2_000 * 1_000) * 11 // 10


async def test_what_is_advised_fits_with_the_same_options(process: Open) -> None:
    """A shorter answer, or a cheaper model that has the option: never one that could not be asked so."""
    services = process("0.04")
    asked = {"input_tokens": 2_000, "options": {"speed": "fast", "cache": "1h"}}

    told = await estimate(services, **asked, model=OPUS, max_output_tokens=2_000)

    found = re.search(r"max_output_tokens of (\d+)", told["hint"])
    assert found, told["hint"]
    (followed,) = (await estimate(services, **asked, model=OPUS, max_output_tokens=int(found[1])))["estimates"]
    assert followed["affordable"] is True
    assert HAIKU not in told["hint"]
