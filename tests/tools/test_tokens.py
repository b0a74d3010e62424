"""Token counts without the API: a bound, an estimate and a margin."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.pricing.tokens import (
    MOST_PROMPT_TOKENS,
    MOST_TOKENS_PER_IMAGE,
    is_enough,
    is_plausible_count,
    least_input_tokens,
    likely_input_tokens,
    most_input_tokens,
    with_margin,
)

FRAME_TOKENS = 600
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 900_000}}


def user(*content: Any) -> dict[str, Any]:
    """Make a request of one message."""
    return {"messages": [{"role": "user", "content": list(content)}]}


def text_bytes(value: object) -> int:
    """Measure a value as compact JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bound_is_never_below_the_bytes_of_the_text(system: str, prompt: str) -> None:
    """A tokenizer that works on bytes makes no more tokens than bytes."""
    request = {"system": system, "messages": [{"role": "user", "content": prompt}]}

    assert most_input_tokens(request) >= len((system + prompt).encode()) + FRAME_TOKENS


def test_everything_that_reaches_the_model_is_counted_and_nothing_else() -> None:
    """System, tools, messages and the output schema are input (Messages API); metadata is not."""
    counted = {
        "system": "sys",
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": "hé"}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }

    bound = most_input_tokens({**counted, "model": "m", "max_tokens": 5, "metadata": {"user_id": "x" * 999}})

    assert bound == FRAME_TOKENS + text_bytes(counted)


def test_the_likely_count_is_two_tokens_for_five_bytes() -> None:
    """The measured average of prose and code on the current tokenizer."""
    request = {"system": None, "messages": [{"role": "user", "content": "x" * 1_000}]}

    expected_bytes = text_bytes({"messages": request["messages"]})
    assert likely_input_tokens(request) == -(-expected_bytes * 2 // 5)
    assert likely_input_tokens(request) < most_input_tokens(request)


@pytest.mark.parametrize(
    "source",
    [IMAGE["source"], {"type": "url", "url": "https://example.com/a.png"}, {"type": "file", "file_id": "f"}],
)
def test_an_image_is_bounded_by_the_most_that_any_image_costs(source: dict[str, str]) -> None:
    """Images are scaled down before they are read, so their bytes say nothing (Anthropic, "Vision")."""
    without = most_input_tokens(user({"type": "image"}))

    assert most_input_tokens(user({"type": "image", "source": source})) == without
    assert without == FRAME_TOKENS + MOST_TOKENS_PER_IMAGE + text_bytes(user({"type": "image"}))


def test_images_inside_tool_results_and_documents_are_images_too() -> None:
    """The API reads content blocks there as well."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, {"type": "text", "text": "seen"}, IMAGE]}
    document = {"type": "document", "source": {"type": "content", "content": [IMAGE]}}

    bound = most_input_tokens(user(result, document))

    assert 3 * MOST_TOKENS_PER_IMAGE < bound < 3 * MOST_TOKENS_PER_IMAGE + 2_000


def test_what_only_looks_like_an_image_is_counted_as_text() -> None:
    """A tool's input is text to the model, whatever its keys are called."""
    call = {"type": "tool_use", "id": "t", "name": "paint", "input": {"content": [IMAGE]}}

    assert most_input_tokens(user(call)) > 900_000


def test_a_text_document_is_bounded_by_its_text() -> None:
    """Plain text documents need no conversion."""
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 5_000}}

    assert most_input_tokens(user(document)) == FRAME_TOKENS + text_bytes(user(document))


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        {"type": "url", "url": "https://example.com/a.pdf"},
        {"type": "file", "file_id": "f"},
        None,
        "text",
    ],
)
@pytest.mark.parametrize("count", [most_input_tokens, likely_input_tokens])
def test_a_pdf_or_a_document_by_reference_is_bounded_by_the_longest_prompt(count: Any, source: object) -> None:
    """Its tokens depend on its pages, which only the API sees, and refuses past a million."""
    document = {"type": "document", "source": source}

    assert count(user(document)) == MOST_PROMPT_TOKENS
    assert count(user({"type": "tool_result", "content": [document]}, IMAGE)) == MOST_PROMPT_TOKENS


def test_half_a_surrogate_pair_is_refused_with_a_sentence() -> None:
    """Python text may hold what UTF-8 cannot; the API could never have received it."""
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        most_input_tokens(user({"type": "text", "text": "\ud83d"}))


def nested(levels: int) -> dict[str, Any]:
    """Make a request of tool results within tool results."""
    block: Any = "end"
    for _ in range(levels):
        block = [{"type": "tool_result", "content": block}]
    return user(*block)


@pytest.mark.parametrize(
    "request_", [user({"text": {1, 2}}), user({"n": float("nan")}), user({"b": b"raw"}), nested(100_000)]
)
def test_what_json_cannot_carry_is_refused_with_a_sentence(request_: dict[str, Any]) -> None:
    """Bad input is an answer, never a crash."""
    with pytest.raises(InvalidArgumentError, match="counted"):
        most_input_tokens(request_)


def test_text_of_ten_megabytes_is_counted() -> None:
    """A prompt may be large; its bound is plain arithmetic."""
    assert most_input_tokens({"system": "é" * 5_000_000}) > 10_000_000


@pytest.mark.parametrize(("counted", "bounded"), [(0, 64), (1, 66), (50, 115), (51, 117), (100, 166), (10_000, 10_264)])
def test_a_count_of_the_api_gets_two_percent_and_sixty_four_tokens_more(counted: int, bounded: int) -> None:
    """The count endpoint is documented as an estimate; the margin is rounded up."""
    assert with_margin(counted) == bounded


@pytest.mark.parametrize("counted", [-1, True, 5.0, "5"])
def test_a_count_that_cannot_be_gets_no_margin(counted: Any) -> None:
    """A negative count would lower a bound."""
    with pytest.raises(InvalidArgumentError, match="token count"):
        with_margin(counted)


# -- the fewest tokens that a request can have --


def asked(text: str) -> dict[str, Any]:
    """Make a request of one text."""
    return {"messages": [{"role": "user", "content": text}]}


@given(st.text(max_size=2_000), st.text(max_size=200))
def test_the_fewest_tokens_are_at_least_one_and_never_above_the_bound(prompt: str, system: str) -> None:
    """Between the two lies every count that may be true; there always is one."""
    request = {**asked(prompt), "system": system}

    fewest = least_input_tokens(request)

    assert 1 <= fewest <= max(1, len(prompt + system) // 4)
    assert is_enough(request, fewest)
    assert not is_enough(request, fewest - 1)


@pytest.mark.parametrize(
    ("text", "fewest"),
    [
        ("", 1),
        (" \n" * 9_000, 1),
        ("information " * 400, 300),
        ("x" * 16_000, 1_000),
        ("数" * 1_600, 300),
        ("a " * 1_000, 500),
        ("-=" * 1_000, 1),
    ],
    ids=["nothing", "white space", "words", "letters", "without spaces", "letters apart", "punctuation"],
)
def test_the_fewest_tokens_go_by_words(text: str, fewest: int) -> None:
    """No tokenizer joins two words; what may become one token however long it is counts as nothing."""
    assert least_input_tokens(asked(text)) == fewest


def test_what_the_model_may_not_read_makes_no_count_implausible() -> None:
    """The API drops earlier thinking, puts schemas in words of its own, and scales images down to nothing."""
    words = "word " * 1_000
    content = [
        {"type": "thinking", "thinking": words, "signature": words},
        IMAGE,
        {"type": "document", "source": {"type": "url", "url": words}},
        {"type": "tool_use", "id": words, "name": "t", "input": {}},
    ]
    tool = {"name": "t", "description": words, "defer_loading": True, "input_schema": {"description": words}}

    assert least_input_tokens({**user(*content), "tools": [tool]}) == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"system": "word " * 1_000},
        {"system": [{"type": "text", "text": "word " * 1_000}]},
        {"tools": [{"name": "t", "description": "word " * 1_000, "input_schema": {}}]},
        user({"type": "text", "text": "word " * 1_000}),
        user({"type": "tool_use", "id": "t", "name": "t", "input": {"a": "word " * 1_000}}),
        user({"type": "tool_result", "tool_use_id": "t", "content": "word " * 1_000}),
        user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "word " * 1_000}]}),
        user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 1_000}}),
    ],
    ids=["system", "system blocks", "tools", "text", "call", "result", "result blocks", "document"],
)
def test_all_that_the_model_surely_reads_counts(request_: dict[str, Any]) -> None:
    """A gateway that leaves a part out of its count is found out by the words of that part."""
    assert 750 <= least_input_tokens(request_) <= 760
    assert not is_plausible_count(request_, 48)
    assert is_plausible_count(request_, 1_300)
    assert not is_plausible_count(request_, 9_000)


def test_what_is_no_request_at_all_has_one_token_at_least() -> None:
    """A host's messages may be anything."""
    assert least_input_tokens({"messages": "text", "system": 5, "tools": [None, {"name": 3}]}) == 1
    assert least_input_tokens({"messages": [None, {"content": [None, {"type": "text", "text": None}]}]}) == 1
