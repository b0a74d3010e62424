"""Gateways whose streams, errors and answers are not as the API would send them."""

import json
import zlib

import anthropic
import anyio
import httpx2
import pytest

from budget_server.demo.scripted_claude import (
    ScriptedClaude,
    Turn,
    Usage,
)
from server.scripted_claude.asking import KEY, REQUEST, sdk
from server.scripted_claude.seeing import BONN, HEADERS, SAID, ULM, ask

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


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


async def test_what_is_compressed_can_be_read_as_soon_as_it_is_sent() -> None:
    """Each event is flushed: a client need not wait for the end of the stream."""
    hold = anyio.Event()
    turn = Turn(text=SAID, hold=hold, hold_at="middle")
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    async with (
        ScriptedClaude([turn], profile="claude-relay-like") as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
        client.stream("POST", "/v1/messages", json={**REQUEST, "stream": True}) as response,
    ):
        read = b""
        async for piece in response.aiter_raw():
            read += inflate.decompress(piece)
            if b"content_block_delta" in read:
                hold.set()

    assert b"message_stop" in read


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
