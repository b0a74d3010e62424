"""The prompt cache, as the usage of the scripted Claude tells of it."""

from typing import Any

import pytest

from budget_server.demo.scripted_claude import ScriptedClaude, Turn, Usage, count_input_tokens
from server.scripted_claude.asking import (
    CALL,
    CLOSED,
    EPHEMERAL,
    MARKED,
    REQUEST,
    RESULT,
    USER,
    WEATHER,
    asking_for,
    conversation,
    sdk,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


LONG = "A long instruction that stays the same. " * 120
SHORT = "A short one."


async def cached_usages(*requests: dict[str, Any], usage: Usage | None = None, caches: bool = True) -> list[Any]:
    """Send requests one after another to one endpoint that caches, and give the usage of each."""
    turns = [Turn(text="Hi", usage=usage or Usage())] * len(requests)
    async with ScriptedClaude(turns, caches=caches) as endpoint, sdk(endpoint) as client:
        return [(await client.messages.create(**{**REQUEST, **request})).usage for request in requests]


def tokens(usage: Any) -> tuple[int, int, int]:
    """Give what a request read, wrote and paid in full."""
    return usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.input_tokens


def growing(*texts: str) -> list[dict[str, Any]]:
    """Make the requests of a conversation of which each says one text more than the one before."""
    return [
        {"messages": [{"role": USER, "content": [{"type": "text", "text": text}]} for text in texts[:count]]}
        for count in range(1, len(texts) + 1)
    ]


@pytest.mark.parametrize("caches", [False, True])
async def test_without_breakpoints_or_without_caching_nothing_is_cached(caches: bool) -> None:
    """Caching is the script's choice and the request's."""
    plain = await cached_usages({"system": LONG}, {"system": LONG}, caches=caches)
    marked = await cached_usages({"system": LONG, "cache_control": EPHEMERAL}, caches=False)

    assert all(tokens(usage)[:2] == (0, 0) for usage in [*plain, *marked])


async def test_a_growing_conversation_reads_what_it_wrote_before_and_writes_what_is_new() -> None:
    """With one breakpoint at the top level, which moves along (Messages API, automatic caching)."""
    requests = [{**each, "cache_control": EPHEMERAL} for each in growing(LONG, LONG * 2, SHORT)]

    first, second, third = await cached_usages(*requests)

    assert tokens(first)[0] == 0
    assert tokens(first)[1] > 1_024
    assert tokens(second)[0] == tokens(first)[1]
    assert tokens(second)[1] > 2 * 1_024
    assert tokens(third)[0] == tokens(second)[0] + tokens(second)[1]
    assert 0 < tokens(third)[1] < 100
    for request, usage in zip(requests, (first, second, third), strict=True):
        assert sum(tokens(usage)) == count_input_tokens(request)
        assert 0 <= tokens(usage)[2] < 100
        assert usage.cache_creation.ephemeral_5m_input_tokens == tokens(usage)[1]


async def test_a_prefix_is_kept_for_as_long_as_its_own_breakpoint_says() -> None:
    """What is written for an hour costs more than what is written for five minutes."""
    request = {
        "system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [{"role": USER, "content": [{"type": "text", "text": LONG * 2, "cache_control": EPHEMERAL}]}],
    }

    written, read = await cached_usages(request, request)

    assert written.cache_creation.ephemeral_1h_input_tokens > 1_024
    assert written.cache_creation.ephemeral_5m_input_tokens > 2 * 1_024
    assert tokens(read)[:2] == (tokens(written)[1], 0)


async def test_a_prefix_that_is_too_short_is_not_cached() -> None:
    """And nothing says so."""
    usages = await cached_usages(*[{"system": SHORT, "cache_control": EPHEMERAL}] * 2)

    assert all(tokens(usage)[:2] == (0, 0) for usage in usages)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "claude-haiku-5-5"},
        {"tools": [{**WEATHER, "description": "Tells the weather."}]},
        {"system": [{"type": "text", "text": f"{LONG}!", "cache_control": EPHEMERAL}]},
        asking_for(CLOSED),
    ],
)
async def test_a_change_before_the_breakpoint_misses_the_cache(change: dict[str, Any]) -> None:
    """A prefix is the same to its last byte, or another one."""
    request = {"tools": [WEATHER], "system": [{"type": "text", "text": LONG, "cache_control": EPHEMERAL}]}

    _, changed, same = await cached_usages(request, {**request, **change}, request)

    assert tokens(changed)[0] == 0
    assert tokens(same)[0] > 0


async def test_another_choice_of_tools_misses_what_was_said_and_keeps_what_comes_before() -> None:
    """As documented for ``tool_choice``: a last turn without tools pays for its messages anew."""
    marked = {"type": "text", "text": LONG, "cache_control": EPHEMERAL}
    request = {"tools": [WEATHER], "system": [marked], "messages": [{"role": USER, "content": [marked]}]}

    first, landing = await cached_usages(request, {**request, "tool_choice": {"type": "none"}})

    assert 0 < tokens(landing)[0] < tokens(first)[1]
    assert tokens(landing)[0] + tokens(landing)[1] == tokens(first)[1]


@pytest.mark.parametrize(("new_blocks", "is_found"), [(19, True), (20, False)])
async def test_a_breakpoint_looks_twenty_blocks_back_and_no_further(new_blocks: int, is_found: bool) -> None:
    """Many tool results at once can outrun the cache."""
    opening = [{"type": "text", "text": LONG}]
    longer = opening + [{"type": "text", "text": f"Result {number}"} for number in range(new_blocks)]
    requests = [
        {"messages": [{"role": USER, "content": each}], "cache_control": EPHEMERAL} for each in (opening, longer)
    ]

    _, second = await cached_usages(*requests)

    assert (tokens(second)[0] > 0) == is_found


async def test_where_breakpoints_stand_is_no_part_of_the_prefix() -> None:
    """They move along with the conversation, on blocks and within the results of tools."""
    result = {"type": "text", "text": LONG}
    marked = conversation("Hi", [CALL], [{**RESULT, "content": [{**result, "cache_control": EPHEMERAL}]}])
    longer = conversation("Hi", [CALL], [{**RESULT, "content": [result]}], "Hi", [MARKED])

    first, second = await cached_usages(marked, longer)

    assert tokens(first)[1] > 1_024
    assert tokens(second)[0] == tokens(first)[1]
    bare = conversation("Hi", [CALL], [{**RESULT, "content": [result]}])
    assert count_input_tokens(marked) == count_input_tokens(bare)


async def test_usage_that_a_script_states_wins_over_the_simulation() -> None:
    """Of the input; an output alone leaves the input to be worked out."""
    request = {"system": LONG, "cache_control": EPHEMERAL}

    (stated,) = await cached_usages(request, usage=Usage(cache_read_input_tokens=7))
    (full,) = await cached_usages(request, usage=Usage(input_tokens=9))
    (output,) = await cached_usages(request, usage=Usage(output_tokens=500))

    assert tokens(stated)[:2] == (7, 0)
    assert tokens(full) == (0, 0, 9)
    assert tokens(output)[1] > 1_024
    assert output.output_tokens == 500
