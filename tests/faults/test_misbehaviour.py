"""What is beyond the fault table: answers that nobody should give, each taken for what it is.

Of Claude, whatever the bytes: usage that is known for sure is charged; otherwise the bound, unless it surely did no
work. Of the authority, whatever it says to whichever request: what may have been spent is charged once, nothing stays
held, and nothing is sent for which nothing is reserved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pytest

from budget_server.demo.scripted_claude import Answer, Failure, Turn
from faults import wire
from faults.conftest import SetStage
from faults.proxy import MISHAPS, Operation
from faults.table import Fate
from faults.test_table import CONSTANTS, END, check_books
from faults.wire import PING, STOP, WHOLE, Wire, delta, event, start, used, with_lines_of, words, zipped

pytestmark = pytest.mark.anyio

ERROR = b'{"type": "error", "error": {"type": "api_error", "message": "No."}}'
PAGE = b"<html><body>Bad gateway</body></html>"


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An answer of Claude's that is odd in one way, and what its reservation becomes."""

    how: str
    wire: Wire
    fate: Fate
    status: str = ""
    """How the delegation ends; by default, as well as its charge is known."""
    times: int = 1
    """How often it is asked for, and given."""


def _page(status: str, fate: Fate, body: bytes = PAGE, times: int = 1) -> Odd:
    kind = "application/json" if body == ERROR else "text/html"
    return Odd(how=f"{status}, {kind}", wire=Wire(status=status, content_type=kind, body=body), fate=fate, times=times)


def _odd(how: str, body: bytes, fate: Fate, **shape: Any) -> Odd:
    return Odd(how=how, wire=Wire(body=body, **shape), fate=fate)


def _usage(how: str, fate: Fate, **changes: object) -> Odd:
    # The answer is whole, only what it cost is not known.
    return Odd(how=f"usage: {how}", wire=used(**changes), fate=fate, status="completed")


ODD: Sequence[Odd] = [
    _odd("byte by byte", WHOLE, "usage", size=1),
    _odd("seven bytes at a time", WHOLE, "usage", size=7),
    _odd("lines end with CR LF", with_lines_of(b"\r\n")(WHOLE), "usage"),
    _odd("a flood of pings", PING * 500 + start() + PING * 500 + words() + delta() + STOP, "usage"),
    _odd("an event of a kind to come", start() + event("from_the_future", x=1) + words() + delta() + STOP, "usage"),
    _odd("a comment", b": hello\n\n" + WHOLE, "usage"),
    Odd(how="in gzip", wire=zipped(WHOLE), fate="usage"),
    _odd("a length that is right", WHOLE, "usage", length=len(WHOLE)),

    _odd("nothing", b"", "bound"),
    _odd("only pings", PING * 3, "bound"),
    _odd("no start", words() + delta() + STOP, "usage"),
    _odd("an event cut in half", (start() + words())[:-20], "bound"),
    _odd("a length that is not reached", start() + words(), "bound", length=10_000),
    _odd("a reset after its start", start(), "bound", end="reset"),
    _odd("silence after its start", start(), "bound", end="hang"),
    _odd("an event that is no JSON", start() + b"event: message_delta\ndata: {oops\n\n" + STOP, "bound"),
    _odd("no reason to stop", start() + words() + delta(stop_reason=None) + STOP, "usage"),
    _odd("bytes that are no text", start() + b"data: \xff\xfe\n\n" + STOP, "bound"),
    Odd(how="gzip that is cut off", wire=zipped(WHOLE, cut=30), fate="bound"),
    _odd("no gzip, though it says so", WHOLE, "bound", headers=["content-encoding: gzip"]),
    _odd("a page under 200", PAGE, "released", content_type="text/html"),
    _odd("JSON under 200", b"{}", "bound", content_type="application/json"),

    _usage("negative", "bound", output_tokens=-5),
    _usage("a fraction", "bound", output_tokens=8.5),
    _usage("text", "bound", output_tokens="many"),

    _page("500 Internal Server Error", "bound"),
    _page("502 Bad Gateway", "bound"),
    _page("503 Service Unavailable", "bound", ERROR),
    _page("504 Gateway Timeout", "bound"),
    _page("400 Bad Request", "released", ERROR),
    _page("401 Unauthorized", "released", ERROR),
    _page("403 Forbidden", "released", ERROR),
    _page("404 Not Found", "released", ERROR),
    _page("413 Payload Too Large", "released"),
    _page("422 Unprocessable Content", "released", ERROR),
    _page("429 Too Many Requests", "released", times=4),
    _page("529 Overloaded", "released", times=4),
    Odd(how="a redirect", wire=Wire(status="307 Elsewhere", headers=["location: /v1/messages"]), fate="released"),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.how)
async def test_an_odd_answer_is_charged_by_what_is_known_of_it(set_stage: SetStage, odd: Odd) -> None:
    """Design, when things go wrong: usage that is not known for sure is charged at the bound, never handed back."""
    stage = await set_stage("embedded", [odd.wire] * odd.times)
    host = stage.start(constants=CONSTANTS)

    told = await host.call("delegate_to_claude", task="Do it.")
    await stage.balance_is(reserved=0)

    (turn,) = told["turns"]
    assert stage.sent == odd.times
    assert told["status"] == (odd.status or ("completed" if odd.fate == "usage" else "failed"))
    if odd.fate == "released":
        assert (told["spent"]["amount"], [row["status"] for row in stage.spends()]) == (0, ["RELEASED"])
    else:
        assert turn["actual_source"] == odd.fate
        assert (turn["charged"] == turn["reserved"]) == (odd.fate == "bound")
        assert told["spent"] == turn["charged"]
    if odd.fate == "usage":
        assert turn["output_tokens"] == wire.USAGE["output_tokens"]
    if told["status"] == "completed":
        assert told["text"] == wire.SAID
    else:
        assert told["hint"]
    await host.leave()
    await check_books(stage, told)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "0.001", ""])
async def test_a_wait_that_makes_no_sense_is_not_waited_for(set_stage: SetStage, value: str) -> None:
    """Design: an attempt that was surely not billed may be tried again, within limits of ours."""
    busy = Wire(
        status="429 Too Many Requests", content_type="application/json", body=ERROR, headers=[f"retry-after: {value}"]
    )
    stage = await set_stage("embedded", [busy, END])
    host = stage.start(constants=CONSTANTS)

    told = await host.call("delegate_to_claude", task="Do it.")

    assert (told["status"], told["text"], stage.sent) == ("completed", "The end.", 2)
    await host.leave()
    await check_books(stage, told)


# -- the authority ----------------------------------------------------------------------------------------------------

Asked = Literal["reserve", "extend", "commit", "release", "balances"]
REFUSED: Sequence[Answer] = [Failure(status=400)]
ANSWERED: Sequence[Answer] = [Turn(text="So far.")]

DISOWNED = frozenset({"409 mismatch"})
"""Of a commit, an authority that says this, and lies, will not be moved by saying it again."""


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("operation", get_args(Asked))
async def test_whatever_the_authority_says_what_was_spent_is_charged_once(
    set_stage: SetStage, operation: Operation, mishap: str
) -> None:
    """Design: nothing is sent without a reservation, nothing that may be billed is handed back, nothing stays held."""
    stage = await set_stage("remote", REFUSED if operation == "release" else ANSWERED)
    first = stage.start(constants=CONSTANTS)
    stage.proxy.befall(operation, mishap, times=2)

    told = await first.call("delegate_to_claude", task="Do it.")
    await first.leave()
    assert "other" not in {passed.operation for passed in stage.proxy.passed}, "it went where it was redirected to"

    stage.let_leases_run_out()
    second = stage.start(constants=CONSTANTS)
    found = await stage.settled(second) if await stage.ids() else told
    await stage.journal_is_empty()
    await stage.balance_is(reserved=0)
    await second.leave()

    spent, said = stage.balance()["spent"], found["spent"]["amount"]
    is_answered = stage.sent == 1 and operation != "release"
    assert stage.sent <= 1
    assert (said > 0) == is_answered
    assert spent == (0 if operation == "commit" and mishap in DISOWNED else said)
    assert not is_answered or found["text"] == "So far."
