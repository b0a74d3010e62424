"""A host over stdio that writes its messages itself, byte for byte, to one server process that stays alive."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hosting import Environment

Generation = Literal["2025-11-25", "2026-07-28"]
"""Versions of MCP, one of each generation."""

PATIENCE_SECONDS = 10

INTERNAL_ERROR = -32603

_CLIENT = {"name": "fuzz", "version": "1"}
_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": _CLIENT,
}


class StdioHost:
    """One connection.

    Args:
        process: the server, with pipes for standard input and output.
        log: the file that its standard error goes to.
        generation: the version of MCP that is spoken.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, generation: Generation) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._log = log
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        self._unread = b""
        self._number = 0
        self.generation = generation
        if generation == "2025-11-25":
            self.ask("initialize", protocolVersion=generation, capabilities={}, clientInfo=_CLIENT)
            self.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        while data:
            data = data[os.write(self._in, data) :]

    def receive(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Read one message, which must be an object of JSON-RPC on a line of its own."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._out], [], [], max(left, 0))
            assert readable, f"no answer within {seconds} s; on standard error: {self.said()!r}"
            piece = os.read(self._out, 1 << 16)
            assert piece, f"the server left; on standard error: {self.said()!r}"
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict)
        assert message["jsonrpc"] == "2.0"
        return message

    def answers_until(self, request_id: object) -> list[dict[str, Any]]:
        """Read answers up to the one to a request; notifications of the server are passed over."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["id"] != request_id:
            message = self.receive()
            if "id" in message:
                found.append(message)
        return found

    def request(self, method: str, params: Mapping[str, object]) -> tuple[str, bytes]:
        """Give a request's new id, and its line."""
        self._number += 1
        request_id = f"fuzz-{self._number}"
        if self.generation == "2026-07-28":
            params = {"_meta": _ENVELOPE, **params}
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        return request_id, json.dumps(body).encode() + b"\n"

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a request and give its answer, the only one."""
        request_id, line = self.request(method, params)
        self.write(line)
        answers = self.answers_until(request_id)
        assert len(answers) == 1, answers
        return answers[0]

    def call(self, tool: str, arguments: object) -> dict[str, Any]:
        """Call a tool, and give all of the answer."""
        return self.ask("tools/call", name=tool, arguments=arguments)

    def is_alive(self) -> None:
        """Assert that the next request is answered, and that nothing has gone wrong inside."""
        answer = self.ask("ping" if self.generation == "2025-11-25" else "server/discover")
        assert "result" in answer
        assert "Traceback" not in self.said()

    def said(self) -> str:
        """All of standard error so far."""
        return self._log.read_text(encoding="utf-8", errors="backslashreplace")


@contextmanager
def serving_stdio(environment: Environment, log: Path, generation: Generation) -> Iterator[StdioHost]:
    """Run a server for one host, and end it as hosts do; it must leave in good order."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "budget_server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )
    with process:
        try:
            yield StdioHost(process, log, generation)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
