"""Raw lines on standard input: whatever they hold, each request gets one answer, and the next line is served.

JSON-RPC 2.0: who sends what cannot be read is told so. A host that is told nothing waits until it gives up.
"""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from campaigns.fuzz.stdio_host import INTERNAL_ERROR, Generation, StdioHost
from campaigns.fuzz.test_tools import check_sentence
from campaigns.fuzz.values import ODD

METHODS = [
    "tools/list", "tools/call", "resources/list", "resources/templates/list", "resources/read", "prompts/list",
    "prompts/get", "completion/complete", "logging/setLevel", "ping", "server/discover", "initialize",
    "resources/subscribe", "resources/unsubscribe", "notifications/initialized", "notifications/cancelled",
    "notifications/progress", "notifications/roots/list_changed", "tasks/get", "sampling/createMessage", "",
]  # fmt: skip
"""Of both generations, of neither, and of the other side."""

_ids = st.sampled_from([1, 0, -1, 2**63, 10**30, "", "a\0b", "half \ud83d", "x" * 1_000, 1.5, True, None, {}, []]) | ODD
_names = st.sampled_from(
    ["check_budget", "reserve_budget", "budget://balances", "budget://reservations/x", "plan-task"]
)
_meta = ODD | st.fixed_dictionaries(
    {},
    optional={
        "progressToken": ODD,
        "io.modelcontextprotocol/protocolVersion": st.sampled_from(["2026-07-28", "2025-11-25", "1999-01-01"]) | ODD,
        "io.modelcontextprotocol/clientCapabilities": ODD,
        "io.modelcontextprotocol/clientInfo": ODD,
    },
)
_params = ODD | st.fixed_dictionaries(
    {},
    optional={
        "name": _names | ODD, "uri": _names | ODD, "arguments": ODD, "cursor": ODD, "level": ODD, "ref": ODD,
        "argument": ODD, "requestId": _ids, "reason": ODD, "progressToken": ODD, "progress": ODD,
        "protocolVersion": ODD, "capabilities": ODD, "clientInfo": ODD, "_meta": _meta,
    },
)  # fmt: skip
_messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": _ids | st.just(7), "method": st.sampled_from(METHODS) | ODD, "params": _params,
        "result": ODD, "error": ODD, "extra": ODD,
    },
) | st.fixed_dictionaries({"jsonrpc": ODD, "id": st.just(7), "method": st.sampled_from(METHODS)})  # fmt: skip

_well_formed = _messages.map(lambda message: json.dumps(message).encode())


@st.composite
def _mangled(draw: st.DrawFn) -> bytes:
    """A message after a few accidents to its bytes."""
    line = bytearray(draw(_well_formed))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        match draw(st.sampled_from(["cut", "flip", "put", "twice"])):
            case "cut":
                del line[at:]
            case "flip" if at < len(line):
                line[at] ^= 1 << draw(st.integers(0, 7))
            case "twice":
                line[at:at] = line[:at]
            case _:
                line[at:at] = draw(st.binary(min_size=1, max_size=4))
    return bytes(line)


LINES = st.one_of(_well_formed, _well_formed, _mangled(), st.binary(max_size=60)).map(
    lambda line: line.replace(b"\n", b" ").replace(b"\r", b" ")
)


def request_id_in(line: bytes) -> Any:
    """The id that an answer must carry, or ``None`` where none can be told or is to be."""
    try:
        message = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(message, dict)
        or not isinstance(message.get("method"), str)
        or {"result", "error"} & set(message)
    ):
        return None  # no request, or as much an answer as it is one
    request_id = message.get("id")
    if isinstance(request_id, str):
        return request_id if request_id.encode(errors="ignore").decode() == request_id else None
    return request_id if isinstance(request_id, int) and not isinstance(request_id, bool) else None


def check_answers(host: StdioHost, line: bytes, *, end: bytes = b"\n") -> None:
    """Send a line and then a request: both are answered, the line once at most, and neither by an internal error."""
    wanted = request_id_in(line)
    last, request = host.request("tools/list", {})
    host.write(line + end + request)
    answers = host.answers_until(last)
    if wanted is not None and not any(answer["id"] == wanted for answer in answers):
        answers += host.answers_until(wanted)
    others = [answer for answer in answers if answer["id"] != last]
    assert len(others) <= 1, others
    for answer in others:
        assert answer["id"] == (wanted if wanted is not None else answer["id"])
        if "error" in answer:
            assert answer["error"]["code"] != INTERNAL_ERROR, answer
            check_sentence(answer["error"]["message"], "a line")
    host.is_alive()


@pytest.mark.parametrize("generation", ["2025-11-25", "2026-07-28"])
def test_whatever_a_line_holds_a_request_is_answered_once_and_the_next_line_served(
    hosts: dict[Generation, StdioHost], tally: Counter[str], generation: Generation
) -> None:
    """Fuzz list, protocol: bytes that are no text, half a message, ids and parameters of every kind."""

    @settings(
        max_examples=settings().max_examples * 3,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # an answer that does not come is waited for, each time
    )
    @given(LINES)
    @example(b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"\\ud83d","arguments":{}}}')
    @example(b'{"jsonrpc":"2.0","id":"a\\ud83d","method":"tools/list"}')
    @example(b'{"jsonrpc":"2.0","id":"a","method":"tools/list","params":[1]}')
    @example(b'{"jsonrpc":"2.0","id":"a","method":"tools/list","id":"b"}')
    @example(b"\xef\xbb\xbf" + b'{"jsonrpc":"2.0","id":"a","method":"tools/list"}')
    def fuzz(line: bytes) -> None:
        tally[f"lines, {generation}"] += 1
        check_answers(hosts[generation], line)

    fuzz()


@pytest.mark.parametrize("generation", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"   ",
        b"\r",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"jsonrpc":"2.0","id":"a","method":"tools/list"} {"jsonrpc":"2.0","id":"b","method":"tools/list"}',
        b'[{"jsonrpc":"2.0","id":"a","method":"tools/list"},{"jsonrpc":"2.0","id":"b","method":"tools/list"}]',
        b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"check_budget","arguments":{"subject":{"a":1,"a":2}}}}',
        b'{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"cursor":1e400}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nobody"}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
        b'{"jsonrpc":"2.0","id":"a","result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"You?"}}',
    ],
    ids=lambda lines: repr(lines[:40]),
)
def test_a_line_that_is_no_request_stops_nothing(
    hosts: dict[Generation, StdioHost], generation: Generation, lines: bytes
) -> None:
    """Blank lines, batches (which MCP has not had since 2025-06-18), nesting without end, answers to nothing."""
    for end in (b"\n", b"\r\n"):
        check_answers(hosts[generation], lines, end=end)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"jsonrpc":"2.0","id":', b"\xff\xfe", b"no"])
def test_who_sends_what_cannot_be_read_is_told_so(hosts: dict[Generation, StdioHost], line: bytes) -> None:
    """JSON-RPC 2.0, section 5: an error whose id is null, where none can be read."""
    host = hosts["2026-07-28"]
    host.write(line + b"\n")

    answer = host.receive()

    assert answer["id"] is None
    assert answer["error"]["code"] in (-32700, -32600)


def test_a_call_with_half_a_character_in_it_is_refused_to_its_caller(hosts: dict[Generation, StdioHost]) -> None:
    """Hosts in JavaScript write half of a surrogate pair where a text was cut in the middle of an emoji."""
    answer = hosts["2025-11-25"].call("reserve_budget", {"usd": "0.01", "action_name": "cut \ud83d"})

    assert answer["error"]["code"] == -32700
    assert "Parse error" in answer["error"]["message"]
