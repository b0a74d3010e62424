"""Every route over HTTP with any method, odd headers and odd bodies, as bytes on a socket.

Whatever comes: an answer that is no error of the server's, nothing on standard error but warnings, and the next one is
served. The authority's own HTTP face is fuzzed from its OpenAPI document (``make openapi``).
"""

import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import httpx
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from campaigns.fuzz.stdio_host import INTERNAL_ERROR
from campaigns.fuzz.test_lines import LINES
from hosting import Environment
from networking import Served, serving

TransportName = Literal["sse", "streamable-http"]

PATIENCE_SECONDS = 5
PATHS = [
    "/mcp", "/sse", "/messages/", "/messages", "/health", "/ready", "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp", "/", "/mcp/", "//mcp", "/mcp/../health", "/%2e%2e/", "/mcp?a=b",
    "/messages/?session_id=", "/messages/?session_id=00000000000000000000000000000000", "/messages/?session_id=%00",
    "/health/x", "/%ff%fe", "/mcp%0d%0aX: 1", "/" + "x" * 3_000, "*", "http://evil.example/mcp",
]  # fmt: skip
METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO", "get"]
HEADERS = {
    "Host": ["127.0.0.1", "localhost:1", "evil.example", "", "[::1", "127.0.0.1@evil.example", "127.0.0.1:x"],
    "Origin": ["null", "http://evil.example", "http://127.0.0.1", "x" * 1_000, ""],
    "Content-Type": ["application/json", "text/plain", "application/json; charset=latin-1", "", "x"],
    "Accept": ["application/json, text/event-stream", "application/json", "text/event-stream", "*/*", "x;q=9", ""],
    "Mcp-Session-Id": ["none", "", "x" * 1_000, "\x7f", "a,b", "../../x"],
    "MCP-Protocol-Version": ["2025-11-25", "2026-07-28", "1999-01-01", "", "x" * 1_000, "null"],
    "Mcp-Method": ["tools/list", "tools/call", "", "x", "=?base64?eA==?=", "=?base64?!!!?="],
    "Mcp-Name": ["check_budget", "", "=?base64?eA==?=", "=?base64?gICA?="],
    "Authorization": ["Bearer", "Bearer x", "Bearer cbm_x", "Basic eDp5", "Bearer a b", "bearer \x7f", "", "B" * 3_000],
    "Last-Event-ID": ["1", "", "x" * 1_000],
    "Transfer-Encoding": ["chunked", "gzip", "chunked, chunked", "x"],
    "Content-Length": ["0", "-1", "1", "99999999999999999999", "1, 2", "x", "+3"],
    "Content-Encoding": ["gzip", "br", "x"],
    "Expect": ["100-continue", "x"],
    "Upgrade": ["websocket", "h2c"],
    "Connection": ["Upgrade", "close", "keep-alive, x"],
    "X-Forwarded-For": ["127.0.0.1", "x"],
    "Range": ["bytes=0-1"],
    "Cookie": ["a=b; $Version=1", "\xff"],
}
_ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
_GOOD_BODY = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": _ENVELOPE}}, separators=(",", ":")
).encode()


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, most of it in order."""
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), unique=True, max_size=4))
    headers = {name: draw(st.sampled_from(HEADERS[name])) for name in names}
    body = draw(st.sampled_from([b"", _GOOD_BODY]) | LINES)
    if draw(st.integers(0, 4)):  # else nearly everything is refused for the sake of one of these
        headers |= {"Host": "127.0.0.1", "Content-Type": "application/json"}
        headers |= {"Accept": "application/json, text/event-stream"}
    if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(body))
    method = draw(st.sampled_from(["POST", "GET", *METHODS]))
    path = draw(st.sampled_from(PATHS[:5] + PATHS))
    version = draw(st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/9", ""]))
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + body + draw(st.sampled_from([b"", b"", b"GET / HTTP/1.1\r\n", b"\0" * 9]))


@contextmanager
def _listened_to(served: Served) -> Iterator[list[str]]:
    """Read what a server says meanwhile, so that it never waits for a reader."""
    said: list[str] = []
    assert served.process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(served.process.stderr or ()))
    reader.start()
    try:
        yield said
    finally:
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(PATIENCE_SECONDS)
        reader.join()


def exchange(served: Served, request: bytes) -> bytes:
    """Send bytes, and give the beginning of what comes back before the client leaves."""
    host, _, port = served.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as sent:
        sent.sendall(request)
        sent.shutdown(socket.SHUT_WR)
        got = b""
        while b"\r\n\r\n" not in got and (piece := sent.recv(1 << 16)):
            got += piece
        if b"text/event-stream" not in got:
            while piece := sent.recv(1 << 16):
                got += piece
    return got


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
def test_whatever_a_client_sends_it_is_answered_and_the_next_one_served(
    environment: Environment, tally: Counter[str], transport: TransportName
) -> None:
    """Fuzz list, protocol over HTTP: no bytes may end the process or be an error of its own."""
    with serving(environment, transport) as served, _listened_to(served) as said:

        @settings(
            max_examples=settings().max_examples * 2,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],  # what hangs is waited for, each time
        )
        @given(requests())
        @example(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        @example(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")
        @example(b"HEAD /health HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")
        @example(b"\r\n\r\n")
        @example(b"GET")
        @example(b"")
        def fuzz(request: bytes) -> None:
            answer = exchange(served, request)
            status = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
            tally[f"http, {transport}, {status[1].decode() if status else 'closed'}"] += 1
            assert status is None or int(status[1]) < 500 or int(status[1]) == 503, answer
            assert str(INTERNAL_ERROR).encode() not in answer
            assert served.process.poll() is None
            assert not any("Traceback" in line for line in said), "".join(said[-80:])

        fuzz()
        health = httpx.get(f"{served.address}/health", timeout=PATIENCE_SECONDS)
    assert health.json() == {"status": "ok"}
    for line in said:
        assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]*\n", line), line
        assert re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (WARNING |ERROR uvicorn.error: ASGI callable returned)", line), line
