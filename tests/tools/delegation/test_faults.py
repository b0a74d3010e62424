"""What may go wrong with a request, and what its reservation becomes: the fault table, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from budget_server.demo.scripted_claude import Answer, Failure, Fault, ToolCall, Turn
from budget_tools.claude import client
from budget_tools.delegation import turn
from tools.delegation.harness import OpenBench

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _brief_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and backoff are real here, but short."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(turn, "FIRST_BACKOFF_SECONDS", 0.01)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the fault table."""

    script: Sequence[Answer]
    becomes: str
    """What the reservation ends as: released, the bound, or the usage."""
    requests: int = 1
    status: str = "failed"
    says: str = ""
    """What the hint must name."""
    text: str = ""


def _fault(fault: Fault, becomes: str = "bound", **expected: Any) -> Row:
    return Row(script=[Turn(text="Half and half.", fault=fault), Turn(text="Second.")], becomes=becomes, **expected)


def _failure(status: int, becomes: str, **expected: Any) -> Row:
    return Row(script=[Failure(status=status)] * 6, becomes=becomes, says=str(status), **expected)


FAULTS: dict[Fault, Row] = {
    "hang_before_headers": _fault("hang_before_headers"),
    "close_before_headers": _fault("close_before_headers"),
    "reset_before_headers": _fault("reset_before_headers"),
    "empty_stream": _fault("empty_stream"),
    "error_event_first": _fault("error_event_first", "usage", requests=2, status="completed", text="Second."),
    "no_usage": _fault("no_usage", status="completed", text="Half and half."),
    "hang_mid_stream": _fault("hang_mid_stream"),
    "drop_mid_stream": _fault("drop_mid_stream"),
    "reset_mid_stream": _fault("reset_mid_stream"),
    "error_event": _fault("error_event", says="overloaded_error"),
    "bad_json_event": _fault("bad_json_event", text="Half a"),
    "no_message_delta": _fault("no_message_delta", text="Half and half."),
    "no_message_stop": _fault("no_message_stop", "usage", status="completed", text="Half and half."),
}

OK = Turn(text="Second.")
ROWS: dict[str, Row] = {
    **{str(fault): row for fault, row in FAULTS.items()},
    "400": _failure(400, "released"),
    "401": _failure(401, "released"),
    "402": _failure(402, "released"),
    "403": _failure(403, "released"),
    "404": _failure(404, "released"),
    "408": _failure(408, "bound"),
    "413": _failure(413, "released"),
    "429, again and again": _failure(429, "released", requests=turn.MAX_ATTEMPTS),
    "429, then an answer": Row(
        script=[Failure(status=429), Failure(status=429, retry_after_seconds=0), OK],
        becomes="usage", requests=3, status="completed", text="Second.",
    ),
    "429, asking for too long a wait": Row(
        script=[Failure(status=429, retry_after_seconds=3_600), OK], becomes="released", says="3600",
    ),
    "499": _failure(499, "bound"),
    "500": _failure(500, "bound"),
    "502, a gateway's page": Row(script=[Failure(status=502, html=True), OK], becomes="bound", says="502"),
    "503": _failure(503, "bound"),
    "504": _failure(504, "bound"),
    "529, again and again": _failure(529, "released", requests=turn.MAX_ATTEMPTS),
    "529, then an answer": Row(
        script=[Failure(status=529), OK], becomes="usage", requests=2, status="completed", text="Second.",
    ),
    "529, then silence": Row(
        script=[Failure(status=529), Turn(text="Never.", fault="hang_before_headers"), OK],
        becomes="bound", requests=2,
    ),
    "429, then 400": Row(script=[Failure(status=429), Failure(status=400), OK], becomes="released", requests=2),
}  # fmt: skip


def test_every_fault_of_the_scripted_endpoint_has_a_row() -> None:
    """A fault that nobody looked at would be a way to lose money."""
    assert set(FAULTS) == set(get_args(Fault))


@pytest.mark.parametrize("name", ROWS)
async def test_a_fault_settles_the_reservation_by_the_table(bench: OpenBench, name: str) -> None:
    """Design, when things go wrong: spend that may have happened is never handed back, and nothing is sent twice."""
    row = ROWS[name]
    b = await bench(row.script)

    result = await b.delegate()

    (record,) = result["turns"]
    (reservation,) = await b.reservations()
    assert b.sent == row.requests
    assert (result["status"], result["text"]) == (row.status, row.text)
    assert row.says in result["hint"]
    assert row.status == "completed" or result["hint"]
    assert record["reservation_id"] == reservation["reservation_id"]
    if row.becomes == "released":
        assert (reservation["status"], record.get("charged"), record["actual_source"]) == ("RELEASED", None, "")
        return
    assert reservation["status"] == "COMMITTED"
    assert record["actual_source"] == row.becomes
    assert reservation["committed"]["amount"] == record["charged"]["amount"]
    if row.becomes == "bound":
        assert record["charged"] == record["reserved"]
        assert (await b.column(record["reservation_id"], "committed_metadata"))["actual_source"] == "bound"
        assert row.status == "completed" or "bound" in result["hint"]
    else:
        assert record["charged"]["amount"] < record["reserved"]["amount"]


@pytest.mark.parametrize("fault", ["hang_mid_stream", "drop_mid_stream", "error_event", "bad_json_event", "500"])
async def test_an_answer_that_broke_off_keeps_the_request_id_that_a_person_reconciles_by(
    bench: OpenBench, fault: Any
) -> None:
    """Design: what was charged at the bound is listed so that a person can reconcile it."""
    b = await bench([Failure(status=500) if fault == "500" else Turn(text="Half and half.", fault=fault)])

    result = await b.delegate()

    assert result["turns"][0]["request_id"] == b.claude.message_requests[0].request_id


async def test_earlier_turns_stay_when_a_later_one_fails(bench: OpenBench) -> None:
    """A budget stop or a fault loses no work that was paid for."""
    b = await bench([Turn(text="So far.", tool_calls=(ToolCall("shed__count"),)), Failure(status=400)])

    result = await b.delegate(tools=["shed__count"])

    assert (result["status"], result["text"]) == ("failed", "So far.")
    assert [turn_["actual_source"] for turn_ in result["turns"]] == ["usage", ""]


async def test_an_endpoint_that_is_not_there_costs_nothing(bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Design: not sent is surely not billed, so it is tried again and then released."""
    monkeypatch.setattr(turn, "MAX_ATTEMPTS", 2)
    b = await bench([], anthropic_base_url="http://127.0.0.1:1")

    result = await b.delegate()

    assert (result["status"], result["spent"]["amount"]) == ("failed", 0)
    assert "could not be reached" in result["hint"]
    assert [row["status"] for row in await b.reservations()] == ["RELEASED"]
