"""What a turn is charged, by what really came: each row is an answer that some gateway or relay sends."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from budget_tools.claude import client
from budget_tools.delegation import turn
from hosting import text_of
from tools.delegation.evidence_cases import CASES, FINE, ZERO
from tools.delegation.harness import TOOLS, OpenBench
from tools.delegation.raw_endpoint import END, EXACT, Raw, RawEndpoint, call, error, sse, start, stop, text

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _brief_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "AFTER_END_SECONDS", 0.1)
    monkeypatch.setattr(turn, "FIRST_BACKOFF_SECONDS", 0.01)


@pytest.mark.parametrize("name", CASES)
async def test_a_turn_is_charged_by_the_evidence(bench: OpenBench, name: str) -> None:
    """Docs, evidence: exactly, the bound with the reason, or nothing; and the reservation ends so."""
    case = CASES[name]
    raw = Raw(body=case.sent) if isinstance(case.sent, bytes) else case.sent
    b = await bench([], usd="50", endpoint=RawEndpoint(raw))

    answered = await b.call("delegate_to_claude", task="Say hello.", model=case.model)

    result = answered.structured_content
    assert result is not None
    (record,) = result["turns"]
    (reservation,) = await b.reservations()
    assert (result["status"], result["text"]) == (case.status, case.text)
    assert case.says in " ".join([*result["warnings"], result["hint"]])
    assert case.says in text_of(answered)
    if case.charged == "nothing":
        assert (reservation["status"], record.get("charged"), result["spent"]["amount"]) == ("RELEASED", None, 0)
        assert record["charged_because"]
        return
    assert reservation["committed"]["amount"] == record["charged"]["amount"]
    if case.charged == "bound":
        assert record["charged"] == record["reserved"]
        assert (record["actual_source"], bool(record["charged_because"])) == ("bound", True)
        assert any("worst case" in each for each in result["warnings"])
    else:
        assert record["charged"]["amount"] == case.charged
        assert record["actual_source"] == "usage"


@pytest.mark.parametrize("prompt", [1, 48, 6_000])
async def test_a_prompt_of_far_fewer_tokens_than_its_words_is_charged_at_the_bound(
    bench: OpenBench, prompt: int
) -> None:
    """Some gateways report the part of a prompt that was not cached, and drop the rest."""
    usage = {"input_tokens": prompt, "output_tokens": 50}
    b = await bench([], endpoint=RawEndpoint(Raw(body=sse(start(usage), text(), stop(usage), END))))

    result = await b.delegate(task="word " * 8_100)

    (turn_,) = result["turns"]
    assert turn_["charged"] == turn_["reserved"]
    assert f"a prompt of {prompt} tokens, whose words come to more" in " ".join(result["warnings"])


async def test_a_prompt_of_as_many_tokens_as_its_words_is_charged_exactly(bench: OpenBench) -> None:
    """The least that is demanded is far below what any tokenizer makes of the text."""
    usage = {"input_tokens": 8_100, "output_tokens": 50}
    b = await bench([], endpoint=RawEndpoint(Raw(body=sse(start(usage), text(), stop(usage), END))))

    result = await b.delegate(task="word " * 8_100)

    assert result["spent"]["amount"] == 1_670_000


@pytest.mark.parametrize("kind", ["overloaded_error", "rate_limit_error"])
@pytest.mark.parametrize("is_json", [False, True], ids=["event", "json"])
async def test_an_overload_under_status_200_is_tried_again_at_no_cost(
    bench: OpenBench, kind: str, is_json: bool
) -> None:
    """Messages API, errors: these are refusals before any work, whatever status they come under."""
    body = json.dumps(error(kind)).encode() if is_json else sse(error(kind))
    endpoint = RawEndpoint(Raw(body=body), Raw(body=body), Raw(body=FINE))
    b = await bench([], endpoint=endpoint)

    result = await b.delegate()

    assert (result["status"], b.sent, result["spent"]["amount"]) == ("completed", 3, EXACT)


async def test_an_overload_that_lasts_is_given_up_at_no_cost(bench: OpenBench) -> None:
    """The endpoint's own words are shown, and everything is given back."""
    b = await bench([], endpoint=RawEndpoint(Raw(body=sse(error("overloaded_error", "Come back later.")))))

    result = await b.delegate()

    assert (result["status"], b.sent, result["spent"]["amount"]) == ("failed", turn.MAX_ATTEMPTS, 0)
    assert "Come back later" in result["hint"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (503, "upstream connect error or disconnect", "upstream connect error or disconnect"),
        (400, "bad\x1b[2Jthing", "bad\N{REPLACEMENT CHARACTER}[2Jthing"),
        (
            502,
            "<html><head><style>p{}</style></head><body><h1>Bad gateway</h1>\n<p>nginx</p></body></html>",
            "502: Bad gateway nginx.",
        ),
        (403, '{"detail": "no seat"}', "403: no seat."),
        (404, '{"message": "no route"}', "404: no route."),
        (400, "", "no reason given"),
        (400, '{"error": {"message": null}}', "400"),
        (400, '{"error": []}', "400"),
        (500, "word " * 10_000, "word word…"),
        (401, f"the key {'sk-very-secret-key'} is not known", "the key (the key) is not known"),
    ],
)
async def test_the_body_of_an_error_is_shown(bench: OpenBench, status: int, body: str, says: str) -> None:
    """Cut, on one line, without markup, control characters or the key."""
    raw = Raw(body=body.encode(), status=status, content_type="text/plain")
    b = await bench([], endpoint=RawEndpoint(raw), anthropic_api_key="sk-very-secret-key")

    result = await b.delegate()

    assert result["status"] == "failed"
    assert says.removesuffix("…") in result["hint"]
    assert len(result["hint"]) < 500
    assert "very-secret" not in json.dumps(result)


async def test_ten_delegations_on_a_budget_for_eight_stop_after_eight_if_usage_is_zero(bench: OpenBench) -> None:
    """Usage of 0 does not turn the budget off."""
    b = await bench([], endpoint=RawEndpoint(Raw(body=sse(start(ZERO), text(), stop(ZERO), END))))
    first = await b.delegate()
    bound = first["turns"][0]["charged"]["amount"]
    remaining = (await b.balance())["remaining"]
    reserved = await b.call("reserve_budget", amount=remaining - 7 * bound, unit="USD_MICROCENTS")
    assert reserved.structured_content is not None

    later = [await b.delegate() for _ in range(9)]

    assert [each["status"] for each in later] == ["completed"] * 7 + ["budget_exhausted"] * 2
    await b.call("release_budget", reservation_id=reserved.structured_content["reservation_id"])


# -- tool calls -------------------------------------------------------------------------------------------------------


def results_of(b: Any, number: int) -> Sequence[dict[str, Any]]:
    """The tool results that a request brought back."""
    content = b.claude.message_requests[number].body["messages"][-1]["content"]
    return [block for block in content if block["type"] == "tool_result"]


async def test_two_calls_with_one_id_get_each_its_own_result(bench: OpenBench) -> None:
    """Messages API: ids of tool calls are unique in a conversation, and so they are when they go back."""
    calls = [call("{}"), call('{"a": 1}', index=1), call("{}", call_id="", index=2)]
    again = [call("{}")]
    b = await bench(
        [],
        endpoint=RawEndpoint(
            Raw(body=sse(start(), *calls, stop(stop_reason="tool_use"), END)),
            Raw(body=sse(start(), *again, stop(stop_reason="tool_use"), END)),
            Raw(body=FINE),
        ),
    )

    result = await b.delegate(tools=TOOLS)

    last = b.claude.message_requests[2].body["messages"]
    blocks = [block for message in last if not isinstance(message["content"], str) for block in message["content"]]
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    answered = [result_["tool_use_id"] for number in (1, 2) for result_ in results_of(b, number)]
    assert result["status"] == "completed"
    assert result["spent"]["amount"] == 3 * EXACT
    assert uses[0] == "toolu_1"
    assert len(set(uses)) == len(uses) == 4
    assert answered == uses
