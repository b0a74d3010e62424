"""Answers as gateways and relays send them, and what a turn must be charged for each.

``test_evidence.py`` plays them to turns; the fuzzing of streams begins with them.
"""

import json
from dataclasses import dataclass
from typing import Any

from tools.delegation.harness import MODEL
from tools.delegation.raw_endpoint import END, EXACT, PING, USAGE, Raw, error, refusal, sse, start, stop, text

ZERO = {"input_tokens": 0, "output_tokens": 0}
FINE = sse(start(), text(), stop(), END)
LONG = "One word after another, so that no count of one token can be true. " * 4


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
ITERATION = {"type": "message", **USAGE}
COMPACTION = {"type": "compaction", "input_tokens": 1_000, "output_tokens": 200}
OPUS = 140_000

CASES: dict[str, Case] = {
    "plain": Case(sent=FINE, charged=EXACT),
    # -- counts that cannot be ---------------------------------------------------------------------------------------
    "zeros everywhere": usage_of(ZERO, ZERO, charged="bound", says="a prompt of 0 tokens"),
    "iterations that get fewer": Case(
        sent=sse(
            start(),
            text(),
            stop({**USAGE, "iterations": [COMPACTION, ITERATION]}, None),
            stop({**USAGE, "iterations": [ITERATION]}),
            END,
        ),
        charged="bound",
        says="iterations fell from 2 entries to 1",
    ),
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
    "a first line that was damaged": Case(sent=b"e" + FINE, charged=EXACT),
    "a first line that looks like a page": Case(sent=b"<" + FINE, charged=EXACT),
    "half of a first line, damaged": Case(sent=b"vent: mess", charged="bound", status="failed", text=""),
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
    "an error in JSON, beside an empty answer": page(
        '{"error": {"message": "No seats left."}, "content": []}', says="No seats left"
    ),
    "an error in JSON, beside usage of 0": page(
        json.dumps({"error": {"message": "No seats left."}, "usage": ZERO}), says="No seats left"
    ),
    "an error in JSON, beside usage": page(
        json.dumps({"error": {"message": "No seats left."}, "usage": USAGE}), charged="bound"
    ),
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
    **{
        f"a redirect, {status}": Case(
            sent=Raw(body=b"", status=status, headers={"location": "http://127.0.0.1:1/v1/messages"}),
            charged="nothing",
            status="failed",
            text="",
            says="a redirect, which is not followed: set ANTHROPIC_BASE_URL",
        )
        for status in (301, 302, 303, 307, 308)
    },
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
