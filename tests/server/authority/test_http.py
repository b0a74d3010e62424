"""What only HTTP has, over real sockets: headers, bodies, routes. The operations are tested in ``tests/contract``."""

import json
from typing import Any

import httpx
import pytest

from budget_server.authority.http import MAX_BODY_BYTES
from contract.harness import ROOT
from contract.local import HttpAuthority

TRACE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ZEROS = "0" * 32


@pytest.fixture(autouse=True)
def budget(http: HttpAuthority) -> None:
    """Money that a request could move."""
    http.set_budget(ROOT, 100)


def refused(response: httpx.Response, status: int, code: str = "INVALID_REQUEST") -> dict[str, Any]:
    """Assert the protocol's ErrorResponse, its ids those of the headers, and give it."""
    body = response.json()
    assert (response.status_code, body["error"]) == (status, code), body
    assert response.headers["content-type"] == "application/json"
    assert body["message"].strip()
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["trace_id"] == response.headers["x-cycles-trace-id"]
    assert set(body) <= {"error", "message", "request_id", "trace_id", "details"}
    return dict(body)


def connection(response: httpx.Response) -> object:
    """Tell which connection an answer came over."""
    return response.extensions["network_stream"].get_extra_info("client_addr")


def remaining(http: HttpAuthority) -> int:
    """Read what remains."""
    ((amount,),) = http.sql("SELECT remaining FROM budgets")
    return int(amount)


# -- correlation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": PARENT}, TRACE),
        ({"X-Cycles-Trace-Id": OTHER}, OTHER),
        ({"traceparent": PARENT, "X-Cycles-Trace-Id": OTHER}, TRACE),
        ({"traceparent": "nonsense", "X-Cycles-Trace-Id": OTHER}, OTHER),
    ],
)
def test_the_callers_trace_is_taken_up_by_success_and_error_alike(
    wire: httpx.Client, http: HttpAuthority, headers: dict[str, str], trace: str
) -> None:
    """Cycles v0, CORRELATION AND TRACING: traceparent wins, each falls through where it is malformed."""
    success = wire.post("/v1/decide", json=http.intent(1), headers=headers)
    answers = [
        wire.get("/v1/reservations/none", headers=headers),
        wire.post("/v1/decide", content=b"{", headers=headers),
        wire.get("/v1/nothing", headers=headers),
        wire.put("/v1/decide", headers=headers),
        wire.get("/v1/reservations", headers={**headers, "X-Cycles-API-Key": "unknown"}),
    ]

    assert success.headers["x-cycles-trace-id"] == trace
    assert [answer.status_code for answer in answers] == [404, 400, 404, 405, 401]
    assert {answer.headers["x-cycles-trace-id"] for answer in answers} == {trace}
    assert {answer.json()["trace_id"] for answer in answers} == {trace}


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": PARENT.upper()},
        {"traceparent": PARENT.replace("00-", "ff-", 1)},
        {"traceparent": PARENT + "-00"},
        {"traceparent": PARENT.replace(TRACE, ZEROS)},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"X-Cycles-Trace-Id": ZEROS},
        {"X-Cycles-Trace-Id": OTHER[1:]},
        {"X-Cycles-Trace-Id": OTHER.upper()},
        {"X-Cycles-Trace-Id": ""},
        {},
    ],
)
def test_a_malformed_trace_is_as_none_at_all(wire: httpx.Client, http: HttpAuthority, headers: dict[str, str]) -> None:
    """Cycles v0, CORRELATION AND TRACING: never a reason to refuse; a trace of its own is begun, which is not zero."""
    answers = [wire.post("/v1/decide", json=http.intent(1), headers=headers) for _ in range(2)]

    traces = {answer.headers["x-cycles-trace-id"] for answer in answers}
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(traces) == 2
    assert traces.isdisjoint({TRACE, OTHER, ZEROS})
    assert all(len(trace) == 32 and set(trace) <= set("0123456789abcdef") for trace in traces)


def test_every_request_has_an_id_of_its_own_and_says_whose_it_was(wire: httpx.Client) -> None:
    """Cycles v0, headers X-Request-Id and X-Cycles-Tenant."""
    answers = [wire.get("/v1/reservations"), wire.get("/v1/reservations"), wire.get("/v1/reservations/none")]

    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert [answer.headers["x-cycles-tenant"] for answer in answers] == ["acme"] * 3


# -- idempotency key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["other", "", "K"])
def test_a_key_in_the_header_that_is_not_the_bodys_is_refused(
    wire: httpx.Client, http: HttpAuthority, header: str
) -> None:
    """Cycles v0, IDEMPOTENCY: where both are there, they must match; nothing was held."""
    response = wire.post("/v1/reservations", json=http.intent(1, key="k"), headers={"X-Idempotency-Key": header})

    assert "X-Idempotency-Key" in refused(response, 400)["message"]
    assert remaining(http) == 100


def test_a_key_in_the_header_is_not_needed_and_does_not_stand_in_for_the_bodys(
    wire: httpx.Client, http: HttpAuthority
) -> None:
    """Cycles v0, IDEMPOTENCY: the body's is the one that counts."""
    keyless = http.intent(1)
    del keyless["idempotency_key"]

    assert wire.post("/v1/reservations", json=http.intent(1)).status_code == 200
    response = wire.post("/v1/reservations", json=keyless, headers={"X-Idempotency-Key": "k"})

    assert "idempotency_key" in refused(response, 400)["message"]
    assert remaining(http) == 99


# -- bodies -----------------------------------------------------------------------------------------------------------

GOOD = json.dumps(
    {
        "idempotency_key": "k",
        "subject": {"tenant": "acme"},
        "action": {"kind": "llm.completion", "name": "claude"},
        "estimate": {"unit": "TOKENS", "amount": 1},
        "metadata": {"note": "note"},
    }
)


def nested(depth: int) -> str:
    """Put lists within lists into the metadata."""
    return GOOD.replace('"note": "note"', '"note": ' + "[" * depth + "]" * depth)


BAD = {
    "empty": b"",
    "truncated": GOOD[:-1].encode(),
    "trailing": (GOOD + "x").encode(),
    "two": (GOOD + GOOD).encode(),
    "array": f"[{GOOD}]".encode(),
    "text": json.dumps(GOOD).encode(),
    "null": b"null",
    "number": b"5",
    "NaN": GOOD.replace('"amount": 1', '"amount": NaN').encode(),
    "Infinity": GOOD.replace('"note": "note"', '"note": -Infinity').encode(),
    "a member twice": ('{"estimate": {"unit": "TOKENS", "amount": 9}, ' + GOOD[1:]).encode(),
    "a member twice below": GOOD.replace('"amount": 1', '"amount": 1, "amount": 1').encode(),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "invalid UTF-8": GOOD.encode().replace(b"note", b"n\xffte"),
    "surrogate in UTF-8": GOOD.encode().replace(b"note", b"\xed\xa0\x80"),
    "lone surrogate": GOOD.replace('"note": "note"', r'"note": "\ud800"').encode(),
    "deep": nested(100_000).encode(),
    "huge number": GOOD.replace('"note": "note"', f'"note": 1{"0" * 5_000}').encode(),
    "form": b"idempotency_key=k",
}


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_is_no_json_object_is_refused(wire: httpx.Client, http: HttpAuthority, name: str) -> None:
    """RFC 8259, and Cycles v0, INVALID_REQUEST: nothing was held, and the connection goes on."""
    response = wire.post("/v1/reservations", content=BAD[name], headers={"Content-Type": "application/json"})

    refused(response, 400)
    assert remaining(http) == 100
    assert connection(wire.get("/v1/reservations")) == connection(response)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON", None]
)
def test_a_body_is_read_as_json_under_its_own_name_or_none(wire: httpx.Client, content_type: str | None) -> None:
    """RFC 8259, application/json."""
    headers = {} if content_type is None else {"Content-Type": content_type}

    assert wire.post("/v1/reservations", content=GOOD.encode(), headers=headers).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_of_another_type_is_refused(wire: httpx.Client, http: HttpAuthority, content_type: str) -> None:
    """Cycles v0, INVALID_REQUEST: a page in a browser can send such a body to any address without asking."""
    response = wire.post("/v1/reservations", content=GOOD.encode(), headers={"Content-Type": content_type})

    assert "application/json" in refused(response, 400)["message"]
    assert remaining(http) == 100


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_all_measure_is_refused_and_the_connection_goes_on(
    wire: httpx.Client, http: HttpAuthority, *, chunked: bool
) -> None:
    """RFC 9110, 413: said with or without its length, and never kept in memory."""
    long = GOOD.replace('"note": "note"', f'"note": "{"x" * 4 * MAX_BODY_BYTES}"').encode()
    headers = {"Content-Type": "application/json"}

    response = wire.post("/v1/reservations", content=iter([long[:5], long[5:]]) if chunked else long, headers=headers)
    after = wire.post("/v1/reservations", json=http.intent(1))

    refused(response, 413)
    assert after.status_code == 200
    assert connection(after) == connection(response)
    assert remaining(http) == 99


def test_a_body_as_long_as_is_allowed_is_read(wire: httpx.Client) -> None:
    """The other side of the limit."""
    padded = GOOD.encode().ljust(MAX_BODY_BYTES)

    response = wire.post("/v1/reservations", content=padded, headers={"Content-Type": "application/json"})

    assert response.status_code == 200


# -- routes -----------------------------------------------------------------------------------------------------------


def test_a_reservation_id_has_128_characters_at_most(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, parameter ReservationId."""
    settle = {"idempotency_key": "k", "actual": {"unit": "TOKENS", "amount": 1}}
    for answer in (
        wire.get(f"/v1/reservations/{'r' * 129}"),
        wire.post(f"/v1/reservations/{'r' * 129}/commit", json=settle),
        wire.post(f"/v1/reservations/{'r' * 129}/release", json={"idempotency_key": "k"}),
        wire.post(f"/v1/reservations/{'r' * 129}/extend", json={"idempotency_key": "k", "extend_by_ms": 1}),
    ):
        assert "128" in refused(answer, 400)["message"]

    refused(wire.get(f"/v1/reservations/{'r' * 128}"), 404, "NOT_FOUND")
    assert remaining(http) == 100


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/reservations", "/v1/reservations/a/b", "/v1/admin/budgets", "/v1/balances/"]
)
def test_what_is_not_served_is_not_found(wire: httpx.Client, path: str) -> None:
    """Cycles v0, ErrorResponse, on every path."""
    refused(wire.get(path), 404, "NOT_FOUND")


def test_balances_need_a_filter(wire: httpx.Client) -> None:
    """Cycles v0, getBalances: at least one of the six levels."""
    for query in ({}, {"limit": "5"}, {"include_children": "true"}):
        refused(wire.get("/v1/balances", params=query), 400)


@pytest.mark.parametrize(
    "query", ["tenant=globex&tenant=acme", "tenant=acme&include_children=maybe", "tenant=acme&limit=201",
              "tenant=acme&limit=000000005123", "tenant=acme&cursor=x"]
)  # fmt: skip
def test_a_query_that_cannot_be_is_refused(wire: httpx.Client, query: str) -> None:
    """Cycles v0, parameters: bounds and types; and of two values for one name nobody knows which is meant."""
    for path in ("/v1/balances", "/v1/reservations"):
        if "include_children" in query and path == "/v1/reservations":
            continue  # not a parameter there, and what is unknown is ignored
        refused(wire.get(f"{path}?{query}"), 400)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/decide", "POST"),
        ("GET", "/v1/events", "POST"),
        ("POST", "/v1/balances", "GET"),
        ("DELETE", "/v1/reservations/none", "GET"),
        ("GET", "/v1/reservations/none/commit", "POST"),
    ],
)
def test_another_method_is_refused_and_the_right_one_named(
    wire: httpx.Client, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, 405 with Allow, as the protocol's ErrorResponse."""
    response = wire.request(method, path)

    refused(response, 405)
    assert allowed in response.headers["allow"]


def test_health_is_told_to_everybody_and_says_nothing_of_the_ledger(http: HttpAuthority) -> None:
    """Ours: for whoever watches over the process."""
    response = httpx.get(f"{http.config.base_url}/health")

    assert response.status_code == 200
    assert set(response.json()) == {"status", "version"}
    assert "x-cycles-tenant" not in response.headers


def test_a_ledger_that_does_not_answer_is_a_503(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, INTERNAL_ERROR: nothing was written, the same key may come again; and health says so."""
    body = http.intent(1)
    http.writer.close()

    for answer in (wire.post("/v1/reservations", json=body), wire.get("/v1/reservations"), wire.get("/health")):
        refused(answer, 503, "INTERNAL_ERROR")

    http.reopen()
    headers = {"X-Cycles-API-Key": http.config.api_key}
    assert wire.post("/v1/reservations", json=body, headers=headers).status_code == 200
    assert wire.get("/health").status_code == 200
