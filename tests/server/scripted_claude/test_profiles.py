"""Gateways by name, as their clients see them: raw, before any SDK smooths it."""

import json
import zlib
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import pytest

from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    PROFILES,
    Bill,
    Profile,
    ScriptedClaude,
    ToolCall,
    Turn,
    Usage,
    count_input_tokens,
)
from server.scripted_claude.asking import HELLO, KEY, MODEL, REQUEST, WEATHER, sdk

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]

HEADERS = {"x-api-key": KEY, "anthropic-version": "2026-10-21"}
ULM, BONN = ToolCall("weather", {"place": "Ulm"}), ToolCall("weather", {"place": "Bonn"})
SAID = "Grüße aus Köln."
USAGE = Usage(input_tokens=9_325, output_tokens=76, cache_read_input_tokens=11)
TURN = Turn(text=SAID, tool_calls=(ULM, BONN), usage=USAGE)
INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
COUNTS = (*INPUT, "output_tokens")


@dataclass
class Seen:
    """What a client saw."""

    response: httpx2.Response
    bills: list[Bill]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Data of the events, in order; of each line that is data and JSON."""
        lines = self.response.text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(each) for each in data if each.startswith("{")]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one type."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def first_usage(self) -> Any:
        """Usage in ``message_start``."""
        return self.of("message_start")[0]["message"].get("usage", "none")

    @property
    def last_usage(self) -> Any:
        """Usage in ``message_delta``."""
        return self.of("message_delta")[-1].get("usage", "none")

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """Blocks as they open."""
        return [event["content_block"] for event in self.of("content_block_start")]


async def ask(
    profile: str | Profile | None, turn: Turn = TURN, *, stream: bool = True, times: int = 1, model: str = MODEL
) -> Seen:
    """Ask an endpoint for the same answer once or more often, and look at the last."""
    request = {**REQUEST, "model": model, "tools": [WEATHER], "stream": stream}
    async with (
        ScriptedClaude([turn] * times, profile=profile) as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
    ):
        for _ in range(times - 1):
            await client.post("/v1/messages", json=request)
        return Seen(await client.post("/v1/messages", json=request), endpoint.bills)


async def count(profile: str) -> httpx2.Response:
    """Have an endpoint count the tokens of a request."""
    async with (
        ScriptedClaude(profile=profile) as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
    ):
        return await client.post(COUNT_TOKENS_PATH, json={"model": MODEL, "messages": HELLO})


# -- what holds for all of them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_billed_is_what_was_used_whatever_a_client_is_told(name: str, stream: bool) -> None:
    """The bills are the truth that ledgers are compared with; a profile may not touch them."""
    (honest,) = (await ask(None)).bills

    seen = await ask(name, stream=stream, times=2, model="claude-haiku-5-5")

    assert seen.bills, "one of two requests is always answered"
    for bill in seen.bills:
        assert bill.usage == honest.usage
        assert bill.model == (PROFILES[name].serves or "claude-haiku-5-5")


@pytest.mark.parametrize("name", PROFILES)
async def test_each_says_in_one_sentence_what_it_does_and_where_that_was_reported(name: str) -> None:
    """A profile without a source would be a fault that nobody ever met."""
    profile = PROFILES[name]

    assert profile.does.endswith(".")
    assert profile.does.count(". ") == 0
    assert profile.sources
    assert all("#" in source or "documentation" in source for source in profile.sources)


async def test_without_a_profile_it_is_the_api() -> None:
    """A profile that changes nothing is sent byte for byte as the API sends it, but for the ids."""
    plain, unchanged = await ask(None), await ask(Profile(does="Nothing.", sources=()))

    def nameless(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if "scripted_" not in line)

    assert nameless(plain.response.text) == nameless(unchanged.response.text)
    assert plain.first_usage["input_tokens"] == plain.last_usage["input_tokens"] == 9_325
    assert plain.last_usage["output_tokens"] == 76


async def test_an_unknown_profile_is_an_error() -> None:
    """At once, not at the first request."""
    with pytest.raises(KeyError):
        ScriptedClaude(profile="nobody-like")


# -- usage ------------------------------------------------------------------------------------------------------------


async def test_probos_like_reports_zeros_everywhere() -> None:
    """And a whole answer."""
    seen = await ask("probos-like")

    for usage in (seen.first_usage, seen.last_usage):
        assert {usage[name] for name in COUNTS} == {0}
    assert len(seen.blocks) == 3


async def test_ollama_like_knows_no_prompt_and_no_cache_and_counts_nothing() -> None:
    """Only the output is true."""
    seen = await ask("ollama-like")

    assert (seen.first_usage["input_tokens"], seen.first_usage["output_tokens"]) == (0, 0)
    assert seen.last_usage == {"input_tokens": 0, "output_tokens": 76}
    assert "cache_creation" not in seen.first_usage
    assert (await count("ollama-like")).status_code == 404


async def test_grok2api_like_leaves_the_prompt_out_at_the_end() -> None:
    """It was 0 at the beginning."""
    seen = await ask("grok2api-like")

    assert {seen.first_usage[name] for name in INPUT} == {0}
    assert seen.last_usage == {"output_tokens": 76}


async def test_vercel_ai_gateway_like_tells_the_truth_at_the_end_only() -> None:
    """Zeros first."""
    seen = await ask("vercel-ai-gateway-like")

    assert (seen.first_usage["input_tokens"], seen.first_usage["output_tokens"]) == (0, 0)
    assert (seen.last_usage["input_tokens"], seen.last_usage["output_tokens"]) == (9_325, 76)


async def test_envoy_ai_gateway_like_forgets_the_prompt_at_the_end() -> None:
    """The true output beside it."""
    seen = await ask("envoy-ai-gateway-like")

    assert seen.first_usage["input_tokens"] == 9_325
    assert {seen.last_usage[name] for name in INPUT} == {0}
    assert seen.last_usage["output_tokens"] == 76


async def test_swift_anthropic_like_reports_no_output() -> None:
    """Although there is some."""
    seen = await ask("swift-anthropic-like")

    assert (seen.last_usage["input_tokens"], seen.last_usage["output_tokens"]) == (9_325, 0)


@pytest.mark.parametrize(("name", "usage"), [("pi-like", None), ("no-usage", "none")])
async def test_usage_may_be_null_or_not_there(name: str, usage: object) -> None:
    """In both events that have it."""
    seen = await ask(name)

    assert (seen.first_usage, seen.last_usage) == (usage, usage)


async def test_new_api_like_sends_no_final_event() -> None:
    """Everything else is there."""
    seen = await ask("new-api-like")

    assert seen.of("message_delta") == []
    assert seen.of("message_stop")


async def test_litellm_like_ends_tool_calls_with_end_turn_and_lists_one_iteration() -> None:
    """The entry repeats the counts, which are not to be added up."""
    seen = await ask("litellm-like")

    (final,) = seen.of("message_delta")
    (entry,) = final["usage"]["iterations"]
    assert final["delta"]["stop_reason"] == "end_turn"
    assert entry["type"] == "message"
    assert {name: entry[name] for name in COUNTS} == {name: final["usage"][name] for name in COUNTS}


async def test_litellm_null_text_like_loses_text_and_model() -> None:
    """The pieces that have text say all of it."""
    seen = await ask("litellm-null-text-like")

    pieces = [event["delta"]["text"] for event in seen.of("content_block_delta") if "text" in event["delta"]]
    assert "model" not in seen.of("message_start")[0]["message"]
    assert seen.blocks[0] == {"type": "text"}
    assert pieces[0] is None
    assert "".join(pieces[1:]) == SAID


async def test_a_second_final_event_has_no_stop_reason() -> None:
    """And the same usage."""
    seen = await ask("two-deltas")

    first, second = seen.of("message_delta")
    assert first["delta"]["stop_reason"] == "tool_use"
    assert second["delta"] == {}
    assert first["usage"] == second["usage"]


async def test_vllm_like_knows_nothing_of_the_cache() -> None:
    """And ends as another API does."""
    seen = await ask("vllm-like")

    assert seen.last_usage["cache_read_input_tokens"] is None
    assert seen.first_usage["cache_creation_input_tokens"] is None
    assert seen.response.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\ndata: [DONE]\n\n')


async def test_openrouter_like_sends_comments_and_a_tail_and_may_know_a_cost() -> None:
    """The cost is not ours to believe."""
    seen, with_cost = await ask("openrouter-like"), await ask("openrouter-cost-like")

    assert seen.response.text.startswith(": OPENROUTER PROCESSING\n\nevent: message_start\n")
    assert seen.response.text.endswith("\n\nevent: data\ndata: [DONE]\n\n")
    assert "cost" not in seen.last_usage
    assert with_cost.last_usage["cost"] == 0.5


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_copilot_like_never_says_that_the_message_has_ended() -> None:
    """Its stop reason and usage came before."""
    seen = await ask("copilot-like")

    assert seen.of("message_stop") == []
    assert seen.last_usage["output_tokens"] == 76
    assert seen.response.text.endswith("\n\ndata: [DONE]\n\n")


async def test_agentic_api_like_names_no_events() -> None:
    """Their data says what they are."""
    seen = await ask("agentic-api-like")

    assert "event:" not in seen.response.text
    assert [event["type"] for event in seen.events][-1] == "message_stop"


async def test_sse_starlette_like_ends_lines_as_the_standard_allows() -> None:
    """With comments in between."""
    seen = await ask("sse-starlette-like")

    assert "\n" not in seen.response.text.replace("\r\n", "")
    assert seen.response.text.startswith(": ping - ")
    assert len(seen.events) == len((await ask(None)).events)


async def test_opencode_zen_like_cuts_lines_and_characters() -> None:
    """Put together, it is the same stream."""
    request = {**REQUEST, "stream": True}
    async with (
        ScriptedClaude([Turn(text="ü" * 50)], profile="opencode-zen-like") as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
        client.stream("POST", "/v1/messages", json=request) as response,
    ):
        pieces = [piece async for piece in response.aiter_raw(3)]

    assert {len(piece) for piece in pieces[:-1]} == {3}
    assert any(piece[-1] == "ü".encode()[0] for piece in pieces)
    assert b"".join(pieces).decode().count("ü") == 50


async def test_claude_relay_like_compresses_if_it_may() -> None:
    """A client that takes no gzip gets none."""
    request = {**REQUEST, "stream": True}
    async with (
        ScriptedClaude([Turn(text=SAID)] * 2, profile="claude-relay-like") as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
    ):
        async with client.stream("POST", "/v1/messages", json=request) as response:
            raw = b"".join([piece async for piece in response.aiter_raw()])
        plain = await client.post("/v1/messages", json=request, headers={"accept-encoding": "identity"})

    assert response.headers["content-encoding"] == "gzip"
    assert b"event: message_stop" in zlib.decompress(raw, wbits=zlib.MAX_WBITS | 16)
    assert "content-encoding" not in plain.headers
    assert "event: message_stop" in plain.text


async def test_whole_blocks_open_with_all_their_text() -> None:
    """And have no pieces of it."""
    seen = await ask("whole-blocks")

    assert seen.blocks[0]["text"] == SAID
    assert {event["delta"]["type"] for event in seen.of("content_block_delta")} == {"input_json_delta"}


async def test_lore_like_answers_in_json() -> None:
    """As though no stream had been asked for."""
    seen = await ask("lore-like")

    assert seen.response.headers["content-type"] == "application/json"
    assert seen.response.json()["usage"]["output_tokens"] == 76
    assert [block["type"] for block in seen.response.json()["content"]] == ["text", "tool_use", "tool_use"]


async def test_an_answer_in_json_says_what_its_stream_would_have_said() -> None:
    """Transformations are made once, for both forms."""
    streamed, whole = await ask("litellm-like"), (await ask("litellm-like", stream=False)).response.json()

    assert whole["stop_reason"] == "end_turn"
    assert whole["usage"]["iterations"] == streamed.last_usage["iterations"]
    assert [block.get("input") for block in whole["content"]] == [None, ULM.input, BONN.input]


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_errors_under_status_200_come_every_second_time() -> None:
    """They use up no answer, and nothing is billed for them."""
    in_json, page, streamed = [await ask(name) for name in ("codegraff-like", "html-under-200", "overloaded-stream")]

    for seen in (in_json, page, streamed):
        assert (seen.response.status_code, seen.bills) == (200, [])
    assert in_json.response.json()["error"]["type"] == "permission_error"
    assert page.response.text.startswith("<html>")
    (event,) = streamed.events
    assert (event["type"], event["error"]["type"]) == ("error", "overloaded_error")
    for name in ("codegraff-like", "html-under-200", "overloaded-stream"):
        second = await ask(name, times=2)
        assert len(second.bills) == 1
        assert second.of("message_stop")


async def test_an_overloaded_model_is_overloaded_for_ever_and_others_are_not() -> None:
    """A program has to turn to another."""
    async with ScriptedClaude([Turn(text="Hi")], profile="overloaded-model") as endpoint, sdk(endpoint) as client:
        for _ in range(3):
            with pytest.raises(anthropic.OverloadedError):
                await client.messages.create(**REQUEST)
        await client.messages.create(**{**REQUEST, "model": "claude-haiku-5-5"})

        assert [bill.model for bill in endpoint.bills] == ["claude-haiku-5-5"]


async def test_a_gateway_may_take_x_api_key_only() -> None:
    """The SDK sends another header unless it is told."""
    async with ScriptedClaude([Turn(text="Hi")], profile="x-api-key-only") as endpoint:
        async with sdk(endpoint) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**REQUEST)
        async with sdk(endpoint, default_headers={"x-api-key": KEY}) as client:
            await client.messages.create(**REQUEST)


# -- counts -----------------------------------------------------------------------------------------------------------


async def test_counts_may_be_missing_or_far_too_low() -> None:
    """What is billed is what the prompt has."""
    assert (await count("lm-studio-like")).status_code == 200
    assert "input_tokens" not in (await count("lm-studio-like")).json()
    assert (await count("zero-count")).json() == {"input_tokens": 0}
    assert (await count("shunt-like")).json() == {"input_tokens": 48}

    (bill,) = (await ask("shunt-like", Turn(text="Hi"))).bills
    assert bill.usage["input_tokens"] == count_input_tokens({"messages": HELLO, "tools": [WEATHER]})


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_bifrost_like_serves_another_model_at_its_prices() -> None:
    """It says so in message_start, and only there."""
    seen = await ask("bifrost-like")

    assert seen.of("message_start")[0]["message"]["model"] == "claude-opus-5-5"
    assert seen.bills[0].model == "claude-opus-5-5"
    assert seen.of("message_delta")[0]["delta"]["stop_reason"] == "end_turn"


async def test_endless_answers_pass_max_tokens() -> None:
    """And are billed as long as they are."""
    long = Turn(text="word " * 2_000, usage=Usage(output_tokens=9_000))

    seen = await ask("endless-answers", long)

    assert seen.last_usage["output_tokens"] == 9_000 > REQUEST["max_tokens"]
    assert seen.of("message_delta")[0]["delta"]["stop_reason"] == "end_turn"
    assert seen.bills[0].usage["output_tokens"] == 9_000


async def test_librechat_like_breaks_what_tools_are_called_with() -> None:
    """Each of them."""
    seen = await ask("librechat-like")

    for index in (1, 2):
        pieces = [event["delta"]["partial_json"] for event in seen.of("content_block_delta") if event["index"] == index]
        with pytest.raises(ValueError, match="Expecting"):
            json.loads("".join(pieces))


async def test_hindsight_like_gives_two_calls_one_id() -> None:
    """They stay two calls."""
    first, second = (await ask("hindsight-like")).blocks[1:]

    assert first["id"] == second["id"]


# -- bills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "text", "is_billed"),
    [
        (None, "", False),
        ("cyber", "", False),
        ("general_harms", "", False),
        ("bio", "", True),
        ("frontier_llm", "", True),
        ("not yet known", "", True),
        ("cyber", "I will", True),
    ],
)
async def test_a_refusal_before_any_output_is_billed_by_its_category(
    category: str | None, text: str, is_billed: bool
) -> None:
    """As the API's documentation says, as of September 2026."""
    seen = await ask(None, Turn(text=text, stop_reason="refusal", refusal_category=category))

    assert bool(seen.bills) == is_billed
    assert seen.of("message_delta")[0]["delta"]["stop_details"]["category"] == category
