"""What a turn is charged, by what really came: each row is an answer that some gateway or relay sends."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from budget_tools.claude import client
from budget_tools.delegation import turn
from hosting import text_of
from tools.delegation.harness import MODEL, TOOLS, OpenBench
from tools.delegation.raw_endpoint import (
    END,
    EXACT,
    PING,
    USAGE,
    Raw,
    RawEndpoint,
    call,
    error,
    refusal,
    sse,
    start,
    stop,
    text,
)

pytestmark = pytest.mark.anyio

ZERO = {"input_tokens": 0, "output_tokens": 0}
FINE = sse(start(), text(), stop(), END)
LONG = "One word after another, so that no count of one token can be true. " * 4


@pytest.fixture(autouse=True)
def _brief_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "AFTER_END_SECONDS", 0.1)
    monkeypatch.setattr(turn, "FIRST_BACKOFF_SECONDS", 0.01)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is sent, and what must come of it."""

    sent: Raw | bytes
    charged: int | str
    """Microcents, ``bound``, or ``nothing``."""
    says: str = ""
    """What the warnings or the hint must say."""
    status: str = "completed"
    text: str = "Hello."
    model: str = MODEL


def usage_of(start_usage: object, stop_usage: object, **case: Any) -> Case:
    """Answer in full with these reports of usage."""
    return Case(sent=sse(start(start_usage), text(), stop(stop_usage), END), **case)


def declined(*content: Any, category: object, charged: int | str, **case: Any) -> Case:
    """Decline, before any output if there is no content."""
    said = bool(content)
    return Case(
        sent=sse(
            start(), *content, refusal(category, USAGE if said else {"input_tokens": 100, "output_tokens": 1}), END
        ),
        charged=charged,
        **{"status": "refused", "text": "Hello." if said else "", **case},
    )


def served_by(model: object, charged: int | str, **case: Any) -> Case:
    """Answer as another model."""
    return Case(sent=sse(start(model=model), text(), stop(), END), charged=charged, **case)


def page(body: str, *, content_type: str = "text/html", **case: Any) -> Case:
    """Answer with something else than a stream."""
    sent = Raw(body=body.encode(), content_type=content_type)
    return Case(**{"sent": sent, "charged": "nothing", "status": "failed", "text": "", **case})


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hello."}],
    "usage": USAGE,
}
INPUT_ONLY = 20_000
OPUS = 140_000

CASES: dict[str, Case] = {
    "plain": Case(sent=FINE, charged=EXACT),
    # -- counts that cannot be ---------------------------------------------------------------------------------------
    "zeros everywhere": usage_of(ZERO, ZERO, charged="bound", says="a prompt of 0 tokens"),
    "no prompt": usage_of(ZERO, {"input_tokens": 0, "output_tokens": 40}, charged="bound", says="prompt of 0"),
    "zeros after something": usage_of(
        {"input_tokens": 9_325, "output_tokens": 0},
        {"input_tokens": 0, "output_tokens": 76},
        charged=1_941_000,
    ),
    "zeros before something": usage_of(ZERO, USAGE, charged=EXACT),
    "only the output at the end": usage_of(
        {"input_tokens": 100, "output_tokens": 1}, {"output_tokens": 50}, charged=EXACT
    ),
    "no output although text came": usage_of(
        {"input_tokens": 100, "output_tokens": 1},
        {"input_tokens": 100, "output_tokens": 0},
        charged="bound",
        says="0 output tokens",
    ),
    "a placeholder as the final count": Case(
        sent=sse(start(), text(LONG), stop({"input_tokens": 100, "output_tokens": 1}), END),
        charged="bound",
        text=LONG,
        says="1 output tokens",
    ),
    "a total that falls": Case(
        sent=sse(start(), text(), stop(), {**stop(), "usage": {"output_tokens": 20}}, END),
        charged="bound",
        says="output_tokens fell from 50 to 20",
    ),
    "no usage": usage_of(None, None, charged="bound", says="without usage"),
    "empty usage": usage_of({}, {}, charged="bound", says="without usage"),
    "no final usage": usage_of({"input_tokens": 100, "output_tokens": 1}, None, charged="bound", says="final usage"),
    "usage before the content only": Case(
        sent=sse(start(), stop(USAGE, None), text(), stop(None), END),
        charged="bound",
        says="final usage",
    ),
    "usage before the stop reason": Case(
        sent=sse(start(), text(), stop(USAGE, None), stop(None), END),
        charged=EXACT,
    ),
    "counts in words": usage_of(
        {}, {"input_tokens": "100", "output_tokens": "50"}, charged="bound", says="whole number"
    ),
    "counts with a point": usage_of(
        {}, {"input_tokens": 100.0, "output_tokens": 50}, charged="bound", says="input_tokens"
    ),
    "negative counts": usage_of({"input_tokens": -1}, USAGE, charged="bound", says="negative"),
    "usage is a list": usage_of([], [1], charged="bound", says="object"),
    "more output than was allowed": usage_of(
        {"input_tokens": 100, "output_tokens": 1},
        {"input_tokens": 100, "output_tokens": 9_000},
        charged=9_020_000,
    ),
    "no end, and more input than the bound": Case(
        sent=sse(start({"input_tokens": 10_000_000, "output_tokens": 1}), text()),
        charged=2_000_001_000,
        status="failed",
        says="broke off",
    ),
    # -- the shape of a stream ----------------------------------------------------------------------------------------
    "two final events": Case(
        sent=sse(start(), text(), stop(), {"type": "message_delta", "usage": USAGE}, END), charged=EXACT
    ),
    "a stop reason, then the usage": Case(
        sent=sse(start(), text(), stop(None), stop(USAGE, None), END),
        charged=EXACT,
    ),
    "[DONE] after the end": Case(sent=FINE + b"data: [DONE]\n\n", charged=EXACT),
    "an event named data after the end": Case(sent=FINE + b"event: data\ndata: [DONE]\n\n", charged=EXACT),
    "an error after the end": Case(sent=FINE + sse(error("api_error")), charged=EXACT),
    "bytes after the end": Case(sent=FINE + b"\xff\xfe{]\n\ndata: {\n\n", charged=EXACT),
    "[DONE] in place of the end": Case(sent=sse(start(), text(), stop()) + b"data: [DONE]\n\n", charged=EXACT),
    "no end, but the stop reason and the usage": Case(sent=sse(start(), text(), stop()), charged=EXACT),
    "the connection is cut after the end": Case(sent=Raw(body=FINE, ends="cut"), charged=EXACT),
    "the connection is cut after the stop reason": Case(
        sent=Raw(body=sse(start(), text(), stop()), ends="cut"),
        charged=EXACT,
    ),
    "the connection stays open after the end": Case(sent=Raw(body=FINE, ends="open"), charged=EXACT),
    "an error between the stop reason and the end": Case(
        sent=sse(start(), text(), stop(), error("api_error", "Lost."), END),
        charged="bound",
        status="failed",
        text="",
        says="Lost",
    ),
    "data without names": Case(sent=sse(start(), text(), stop(), END, names=False), charged=EXACT),
    "names without types": Case(
        sent=b"".join(
            b"event: %s\ndata: %s\n\n"
            % (str(each["type"]).encode(), json.dumps({k: v for k, v in each.items() if k != "type"}).encode())
            for each in [start(), *text(), stop(), END]
        ),
        charged=EXACT,
    ),
    "carriage returns": Case(sent=sse(start(), text(), stop(), END, line_end="\r\n"), charged=EXACT),
    "lone carriage returns": Case(sent=sse(start(), text(), stop(), END, line_end="\r"), charged=EXACT),
    "byte by byte": Case(
        sent=Raw(body=sse(start(), text("Grüße."), stop(), END, line_end="\r\n"), chunk_bytes=1),
        charged=EXACT,
        text="Grüße.",
    ),
    "no empty lines": Case(sent=FINE.replace(b"\n\n", b"\n") + b"\n", charged=EXACT),
    "no line end at the end": Case(sent=FINE.rstrip(b"\n"), charged=EXACT),
    "a byte order mark and comments": Case(sent=b"\xef\xbb\xbf: hello\n\n" + sse(PING) + FINE, charged=EXACT),
    "a content type of text": Case(sent=Raw(body=FINE, content_type="text/plain"), charged=EXACT),
    "null where text belongs": Case(
        sent=sse(
            start(model=None),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": None}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
            text("Hello.")[1],
            stop(),
            END,
        ),
        charged=EXACT,
    ),
    "a text block without text": Case(
        sent=sse(
            start(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
            text()[1],
            stop(),
            END,
        ),
        charged=EXACT,
    ),
    "no model": served_by(None, EXACT),
    "no start": Case(sent=sse(text(), stop(), END), charged=EXACT),
    "a block that never began": Case(sent=sse(start(), text()[1], stop(), END), charged=EXACT),
    "no indices": Case(sent=sse(start(), text(index=None), stop(), END), charged=EXACT),
    "one index for all blocks": Case(
        sent=sse(start(), text("Hel"), text("lo."), stop(), END),
        charged=EXACT,
    ),
    "an event that is not JSON": Case(
        sent=sse(start(), text(), b'event: content_block_delta\ndata: {"type\n\n', stop(), END),
        charged=EXACT,
        says="could not be read",
    ),
    "half of a surrogate pair": Case(
        sent=sse(
            start(),
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ud83d"}}\n\n',
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ude00\\ud83d"}}\n\n',
            stop(),
            END,
        ),
        charged=EXACT,
        text="\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}",
    ),
    "two answers in one stream": Case(
        sent=sse(start(), text("Hel"), start(id="msg_2"), text("lo."), stop(), END),
        charged="bound",
        says="several answers",
    ),
    "one start sent twice": Case(sent=sse(start(), start(), text(), stop(), END), charged=EXACT),
    "nothing but a start": Case(sent=sse(start()), charged="bound", status="failed", text=""),
    "nothing": Case(sent=b"", charged="bound", status="failed", text=""),
    # -- other bodies -------------------------------------------------------------------------------------------------
    "a JSON message": page(
        json.dumps(MESSAGE), content_type="application/json", charged=EXACT, status="completed", text="Hello."
    ),
    "a JSON message that says it is a stream": page(
        json.dumps(MESSAGE), content_type="text/event-stream", charged=EXACT, status="completed", text="Hello."
    ),
    "a JSON message in one event": Case(sent=sse(MESSAGE, names=False), charged=EXACT),
    "a JSON message with text for content": page(
        json.dumps({**MESSAGE, "content": "Hello."}), charged=EXACT, status="completed", text="Hello."
    ),
    "half a JSON message": page(json.dumps(MESSAGE)[:-9], charged="bound"),
    "events as lines of JSON": page(
        "\n".join(json.dumps(each) for each in [start(), *text(), stop(), END]),
        charged=EXACT,
        status="completed",
        text="Hello.",
    ),
    "an error in JSON": page('{"error": {"message": "No seats left."}}', says="No seats left"),
    "an error in JSON, as the API writes it": page(
        json.dumps(error("api_error", "No seats left.")), says="No seats left"
    ),
    "an error in JSON, as one string": page('{"error": "No seats left."}', says="No seats left"),
    "an error in JSON, as details": page('{"detail": "No seats left."}', says="No seats left"),
    "a page": page(
        "<!DOCTYPE html><html><head><title>x</title></head><body><h1>No seats left</h1></body>", says="No seats left"
    ),
    "plain words": page(
        "No seats\x1b[31m left", content_type="text/plain", says="No seats\N{REPLACEMENT CHARACTER}[31m left"
    ),
    "an answer of another API": page(
        '{"choices": [{"message": {"content": "Hello."}}], "usage": {"total_tokens": 150}}',
        charged="bound",
    ),
    "a stream of another API": Case(
        sent=b'data: {"choices": [{"delta": {"content": "Hello."}}]}\n\ndata: [DONE]\n\n',
        charged="bound",
        status="failed",
        text="",
    ),
    "an empty object": page("{}", charged="bound"),
    # -- errors within a stream ---------------------------------------------------------------------------------------
    "an invalid request": Case(
        sent=sse(PING, error("invalid_request_error", "Too odd.")),
        charged="nothing",
        status="failed",
        text="",
        says="invalid_request_error: Too odd",
    ),
    "an error of the API": Case(
        sent=sse(error("api_error", "Oops.")),
        charged="bound",
        status="failed",
        text="",
        says="api_error: Oops",
    ),
    "an error without a type": Case(
        sent=b"event: error\ndata: upstream said no\n\n",
        charged="bound",
        status="failed",
        text="",
        says="upstream said no",
    ),
    "overloaded after the start": Case(
        sent=sse(start(), error("overloaded_error")),
        charged="bound",
        status="failed",
        text="",
        says="overloaded_error",
    ),
    # -- declined -----------------------------------------------------------------------------------------------------
    "declined: cyber": declined(category="cyber", charged="nothing", says="category cyber"),
    "declined: general_harms": declined(category="general_harms", charged="nothing", says="general_harms"),
    "declined without a category": declined(category=None, charged="nothing", says="declined"),
    "declined: bio": declined(category="bio", charged=INPUT_ONLY, says="category bio"),
    "declined: frontier_llm": declined(category="frontier_llm", charged=INPUT_ONLY, says="frontier_llm"),
    "declined: reasoning_extraction": declined(category="reasoning_extraction", charged=INPUT_ONLY),
    "declined: something new": declined(category="something_new", charged=INPUT_ONLY, says="something_new"),
    "declined after some output": declined(*text(), category="cyber", charged=EXACT, says="category cyber"),
    "declined in an empty block": declined(text("")[0], category="cyber", charged="nothing", text=""),
    "declined, billed, and without usage": Case(
        sent=sse(start(None), refusal("bio", None), END),
        charged="bound",
        status="refused",
        text="",
        says="without usage",
    ),
    "declined on another platform": Case(
        sent=sse(start(id="msg_bdrk_1"), refusal("cyber"), END),
        charged=INPUT_ONLY,
        status="refused",
        text="",
    ),
    # -- the model that served ----------------------------------------------------------------------------------------
    "its dated form": served_by(f"{MODEL}-20261001", EXACT),
    "its name at a gateway": served_by(f"anthropic/{MODEL}", EXACT),
    "its name at a platform": served_by(f"us.anthropic.{MODEL}-20261001-v1:0", EXACT),
    "a dearer model": Case(
        sent=sse(start(model="claude-opus-5-5"), text(), stop({"input_tokens": 100, "output_tokens": 4_000}), END),
        charged=8_040_000,
        model="claude-haiku-5-5",
        says='"claude-opus-5-5" answered',
    ),
    "a dearer model by its name at a gateway": served_by("anthropic/claude-opus-5.5", OPUS, says="answered"),
    "a model that nobody knows": served_by("gpt-oss", "bound", says="gpt-oss"),
    "a model that is a number": served_by(5, EXACT),
}


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
