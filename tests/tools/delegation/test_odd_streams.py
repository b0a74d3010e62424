"""Streams that nobody would send on purpose: the charge is exact or the bound, and nothing raises.

The bytes go through what reads them and what judges them, without sockets, so that thousands of them are tried. What
must hold is worked out from the events alone, by other code than the product's.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from budget_tools.claude.body import BodyReader, BrokenOff, NotAnAnswer
from budget_tools.claude.failures import failure_of_body
from budget_tools.claude.stream import Reply
from budget_tools.delegation.turn_cost import verdict_on
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.evidence import Verdict
from tools.delegation.evidence_cases import CASES
from tools.delegation.harness import MODEL
from tools.delegation.raw_endpoint import END, PING, Raw, call, error, refusal, sse, start, stop, text

PRICES = PriceBook.load()
BOUND = 4_524_520
INPUT, OUTPUT = 200, 1_000
"""Microcents for a token of the default model."""

COUNTS = st.one_of(st.sampled_from([0, 0, 1, 50, 100, 9_325, 10**9, None]), st.integers(0, 10**12))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["", "100", "new"]),
    st.just([]),
    st.just({}),
)
USAGES = st.one_of(
    st.none(),
    st.fixed_dictionaries({}, optional={"input_tokens": COUNTS, "output_tokens": COUNTS}),
    st.fixed_dictionaries({"input_tokens": COUNTS, "output_tokens": COUNTS}),
    st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "cache_creation", "service_tier"]), ODD),
)
MODELS = st.sampled_from([MODEL, f"{MODEL}-20261001", None, 5, ""])
WORDS = st.text("ab \n\r\0\u2028\u00e9\u597d\U0001f600\ud83d", max_size=60)
INDICES: st.SearchStrategy[Any] = st.sampled_from([0, 0, 1, None, "0", -1])


@st.composite
def events(draw: st.DrawFn) -> list[Mapping[str, Any]]:
    """Draw the events of an answer: in order, or left out, doubled, shuffled and bent."""
    parts: list[Any] = [start(draw(USAGES), model=draw(MODELS))]
    for _ in range(draw(st.integers(0, 3))):
        index = draw(INDICES)
        written = draw(st.sampled_from(["{}", '{"a":', "[1]", ""]))
        content: list[list[Any]] = [text(draw(WORDS), index), call(written), [PING]]
        parts += draw(st.sampled_from(content))
    ends: list[list[Any]] = [
        [stop(draw(USAGES))],
        [stop(draw(USAGES), None), stop(draw(USAGES))],
        [refusal("cyber")],
        [],
    ]
    parts += draw(st.sampled_from(ends))
    after: list[list[Any]] = [[END], [END, END], [], [error("overloaded_error")], [END, error("api_error")]]
    parts += draw(st.sampled_from(after))
    if draw(st.booleans()):
        parts = list(draw(st.permutations(parts)))
    if bool(parts) and draw(st.booleans()):
        at = draw(st.integers(0, len(parts) - 1))
        bent = draw(st.sampled_from(["drop", "double", "null"]))
        if bent == "null" and isinstance(parts[at], Mapping):
            names = list(parts[at])
            parts[at] = {**parts[at], draw(st.sampled_from(names)): draw(ODD)}
        else:
            parts[at : at + 1] = [] if bent == "drop" else [parts[at]] * 2
    return [part for part in parts if isinstance(part, Mapping)]


def judged(body: bytes, *, cuts: Sequence[int] = (), is_cut: bool = False) -> tuple[Verdict, object]:
    """Read bytes as the client does, and judge what came."""
    reader = BodyReader()
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in pairwise(edges):
        reader.feed(body[begin:end])
    came: Reply | NotAnAnswer | BrokenOff = reader.broken() if is_cut else reader.end()
    outcome = came if isinstance(came, Reply) else failure_of_body(came, retry_after=None, without_secrets=str)
    verdict = verdict_on(outcome, {"max_tokens": 4_096}, asked_model=MODEL, prices=PRICES)
    if isinstance(came, Reply):
        # It may go back to the API and into the store.
        json.dumps(list(came.content), ensure_ascii=False, allow_nan=False).encode()
        came.text.encode()
        assert len({each.id for each in came.tool_uses}) == len(came.tool_uses)
    return verdict, came


def surely_used(sent: Sequence[Mapping[str, Any]]) -> int:
    """Price the highest counts of the kind that a stream reported before an error ended it."""
    most = {"input_tokens": 0, "output_tokens": 0}
    for event in sent:
        if event.get("type") == "error":
            break
        message = event.get("message")
        holder = message if event.get("type") == "message_start" and isinstance(message, Mapping) else event
        usage = holder.get("usage")
        if event.get("type") not in ("message_start", "message_delta", "message_stop") or not isinstance(
            usage, Mapping
        ):
            continue
        for name, so_far in most.items():
            count = usage.get(name)
            if type(count) is int and 0 < count < 10**13:
                most[name] = max(so_far, count)
    return most["input_tokens"] * INPUT + most["output_tokens"] * OUTPUT


@given(sent=events(), names=st.booleans(), cuts=st.lists(st.integers(0, 5_000), max_size=4))
@example(
    sent=[start({"input_tokens": 0, "output_tokens": 0}), *text(), stop({"output_tokens": 0}), END], names=True, cuts=[]
)
def test_whatever_the_events_the_charge_is_exact_or_the_bound(
    sent: list[Mapping[str, Any]], names: bool, cuts: list[int]
) -> None:
    """Never less than what was reported, never 0 but for what is not billed, and nothing raises."""
    names = names and all(isinstance(event.get("type"), str) and event["type"].isprintable() for event in sent)
    verdict, came = judged(sse(sent, names=names), cuts=cuts)

    charged = verdict.charge_microcents(BOUND)
    if verdict.basis == "nothing":
        is_unbilled = isinstance(came, Reply) and came.stop_reason == "refusal" and not came.has_output
        is_refused = isinstance(came, BrokenOff | NotAnAnswer) and came.error is not None
        assert is_unbilled or is_refused
        return
    assert verdict.reason or verdict.basis == "exact"
    assert charged >= BOUND or verdict.basis == "exact"
    assert charged > 0
    is_refusal = isinstance(came, Reply) and came.stop_reason == "refusal"
    has_odd_counts = any(isinstance(each, bool | float | str | list) for each in _counts(sent))
    if not is_refusal and not has_odd_counts and _is_of_one_model(sent):
        # A placeholder beside a true count is none: at most one token's price apart.
        assert charged >= min(surely_used(sent), 10**15) - OUTPUT * _placeholders(sent)


@given(body=st.binary(max_size=600), is_cut=st.booleans(), cuts=st.lists(st.integers(0, 600), max_size=4))
def test_bytes_of_any_kind_are_judged(body: bytes, is_cut: bool, cuts: list[int]) -> None:
    """Whatever comes under status 200 is an answer, not one, or unknown."""
    verdict, _ = judged(body, cuts=cuts, is_cut=is_cut)

    assert verdict.basis == "unknown" or b"html" in body.lower()


@given(
    name=st.sampled_from(sorted(CASES)), at=st.integers(0, 2_000), byte=st.integers(0, 255), is_cut=st.booleans(),
    cuts=st.lists(st.integers(0, 2_000), max_size=4),
)  # fmt: skip
def test_a_byte_that_was_changed_makes_no_answer_free(
    name: str, at: int, byte: int, is_cut: bool, cuts: list[int]
) -> None:
    """An answer that is damaged on its way costs what it says, or its bound."""
    sent = CASES[name].sent
    body = bytearray(sent.body if isinstance(sent, Raw) else sent)
    if body:
        body[at % len(body)] = byte
    verdict, came = judged(bytes(body), cuts=cuts, is_cut=is_cut)

    if CASES[name].charged != "nothing":
        is_declined = isinstance(came, Reply) and came.stop_reason == "refusal" and not came.has_output
        is_refused = isinstance(came, BrokenOff) and came.error is not None
        assert verdict.basis != "nothing" or is_declined or is_refused
        assert verdict.charge_microcents(BOUND) > 0 or verdict.basis == "nothing"


def test_the_way_that_bytes_are_cut_changes_nothing() -> None:
    """Chunks end anywhere, in the middle of a line end or of a letter as well."""
    for name, case in CASES.items():
        body = case.sent.body if isinstance(case.sent, Raw) else case.sent
        whole, _ = judged(body)
        piecemeal, _ = judged(body, cuts=range(len(body)))
        assert piecemeal == whole, name


def _holders(sent: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [
        event["message"] if isinstance(event.get("message"), Mapping) else event
        for event in sent
        if event.get("type") in ("message_start", "message_delta", "message_stop")
    ]


def _counts(sent: Sequence[Mapping[str, Any]]) -> list[Any]:
    usages = [holder.get("usage") for holder in _holders(sent)]
    return [count for usage in usages if isinstance(usage, Mapping) for count in usage.values()]


def _is_of_one_model(sent: Sequence[Mapping[str, Any]]) -> bool:
    names = {holder["model"] for holder in _holders(sent) if isinstance(holder.get("model"), str) and holder["model"]}
    return names <= {MODEL, f"{MODEL}-20261001"}


def _placeholders(sent: Sequence[Mapping[str, Any]]) -> int:
    """The highest output that was reported as an answer began: not a count of anything, if a true one came."""
    usages = [
        event["message"].get("usage")
        for event in sent
        if event.get("type") == "message_start" and isinstance(event.get("message"), Mapping)
    ]
    counts = [usage.get("output_tokens") for usage in usages if isinstance(usage, Mapping)]
    return max((count for count in counts if type(count) is int and count > 0), default=0)
