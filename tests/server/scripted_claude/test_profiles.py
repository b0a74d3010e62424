"""Gateways by name: what holds for all of them, and what is billed."""

import json

import pytest

from budget_server.demo.scripted_claude import (
    PROFILES,
    Profile,
    ScriptedClaude,
    Turn,
)
from budget_server.demo.scripted_claude.message import Message
from budget_server.demo.scripted_claude.transformations import transform
from server.scripted_claude.asking import REQUEST
from server.scripted_claude.seeing import TURN, ask

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


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


async def test_a_transformation_leaves_the_events_that_it_was_given() -> None:
    """They may be sent again."""
    message = Message.compose(TURN, {**REQUEST}, id_suffix="1")
    before = json.dumps(message.events(with_usage=True))

    for profile in PROFILES.values():
        transform(message.events(with_usage=True), profile.transformations)
        assert json.dumps(message.events(with_usage=True)) == before


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
