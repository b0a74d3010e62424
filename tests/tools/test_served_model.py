"""The names of models: which are the same model, and which listed id a name comes to."""

import pytest

from budget_tools.pricing.served_model import names_same_model, priced_as, shown_model

LISTED = ("claude-opus-4-5", "claude-opus-4-5-20251101", "claude-opus-5-5", "claude-sonnet-5-5", "my-own")


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("claude-sonnet-5-5", "claude-sonnet-5-5"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5-20261001"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-sonnet-5-5", "anthropic/claude-sonnet-5.5"),
        ("claude-sonnet-5-5", "bedrock/us-east-1/us.anthropic.claude-sonnet-5-5-20261001-v1:0"),
        ("claude-sonnet-5-5", "global.anthropic.claude-sonnet-5-5-20261001-v2:0"),
        ("claude-sonnet-5-5", "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-5-5-v1:0"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5@20261001"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5-latest"),
        ("claude-sonnet-5-5", "publishers/anthropic/models/claude-sonnet-5-5@default"),
        ("claude-sonnet-5-5", "Claude-Sonnet-5-5"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5[1m]"),
        ("my-own", "my-own"),
    ],
)
def test_a_form_of_the_name_is_the_same_model(asked: str, served: str) -> None:
    """Gateways and platforms name one model in their own ways."""
    assert names_same_model(served, asked)
    assert names_same_model(asked, served)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("claude-sonnet-5-5", "claude-sonnet-5"),
        ("claude-sonnet-5", "claude-sonnet-5-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20260101"),
        ("claude-sonnet-5-5", "claude-opus-5-5"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5-mini"),
        ("claude-sonnet-5-5", "not-claude-sonnet-5-5"),
        ("my-own", "anthropic/my-own"),
        ("claude-sonnet-5-5", "gpt-oss"),
    ],
)
def test_another_name_is_another_model(asked: str, served: str) -> None:
    """Nothing is guessed from how alike two names are."""
    assert not names_same_model(served, asked)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5-20251101"),
        ("claude-opus-5-5-20261001", "claude-opus-5-5"),
        ("anthropic/claude-opus-5.5", "claude-opus-5-5"),
        ("my-own", "my-own"),
        ("claude-opus-9", None),
        ("", None),
    ],
)
def test_a_name_comes_to_a_listed_id_or_to_none(name: str, listed: str | None) -> None:
    """A model without a price has none, whatever its name looks like."""
    assert priced_as(name, LISTED) == listed


def test_a_name_that_an_endpoint_gave_is_shown_in_quotes_and_cut() -> None:
    """It may be anything, of any length."""
    assert shown_model("a\x1b[2J") == '"a\\u001b[2J"'
    assert len(shown_model("x" * 10_000)) < 250
