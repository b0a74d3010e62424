"""What the tests of the network transports share: the server as a process on a port, and hosts that connect to it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from hosting import Environment, run_program

ANNOUNCED = re.compile(r"cycles-budget-mcp on (http://[\d.]+:\d+)(/\w+)")
STARTING_LINES = 20


class Served:
    """A process that serves MCP over HTTP."""

    def __init__(self, process: "subprocess.Popen[str]", transport: str) -> None:
        assert process.stderr is not None
        self.process = process
        self.transport = transport
        announced = None
        for _ in range(STARTING_LINES):
            announced = ANNOUNCED.fullmatch(process.stderr.readline().strip())
            if announced is not None:
                break
        assert announced is not None
        self.address, self.path = announced.groups()

    @property
    def url(self) -> str:
        """Where hosts connect."""
        return self.address + self.path

    @property
    def post_url(self) -> str:
        """Where they send their messages."""
        return self.url if self.transport == "streamable-http" else f"{self.address}/messages/"

    def host(self, mode: str = "auto", token: str = "", person: ElicitationFnT | None = None) -> Client:
        """Make a host; SSE knows the older protocol generation alone."""
        return host_of(self.transport, self.url, mode, token, person)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and give the exit code, and what was still said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


def host_of(
    transport: str, url: str, mode: str = "auto", token: str = "", person: ElicitationFnT | None = None
) -> Client:
    """Make a host of a server over HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if transport == "sse":
        return Client(sse_client(url, headers=headers), mode="legacy", elicitation_callback=person)
    return Client(_streamable_http(url, headers), mode=mode, elicitation_callback=person)


@asynccontextmanager
async def _streamable_http(url: str, headers: dict[str, str]) -> AsyncIterator[Any]:
    async with create_mcp_http_client(headers=headers) as client, streamable_http_client(url, http_client=client) as to:
        yield to


@contextmanager
def serving(
    environment: Environment, transport: str, *arguments: str, program: str = "budget_server"
) -> Iterator[Served]:
    """Serve on a free port; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", program, "serve", "--transport", transport, "--port", "0", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Served(process, transport)
        finally:
            process.kill()


@asynccontextmanager
async def host_over(
    environment: Environment, transport: str, mode: str, person: ElicitationFnT | None = None
) -> AsyncIterator[Client]:
    """Connect a host to a server of its own, over any of the transports."""
    if transport == "stdio":
        parameters = StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)
        async with Client(parameters, mode=mode, elicitation_callback=person) as client:
            yield client
        return
    with serving(environment, transport) as served:
        async with served.host(mode, person=person) as client:
            yield client


EVERY_WAY = [
    ("stdio", "auto"),
    ("stdio", "legacy"),
    ("streamable-http", "auto"),
    ("streamable-http", "legacy"),
    ("sse", "legacy"),
]
"""Every transport with every generation of the protocol that it has."""


@contextmanager
def lost_host(served: Served, mode: str, token: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Run a host that delegates, as a process to be killed."""
    program = [sys.executable, "-m", "lost_host", served.transport, served.url, mode, token]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(program, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def new_token(environment: Environment, *arguments: str, name: str = "test") -> str:
    """Make a token and give its secret: all that standard output has, so that a script can take it."""
    created = run_program(environment, "token", "create", "--name", name, *arguments)
    assert created.returncode == 0, created.stderr
    (secret,) = created.stdout.splitlines()
    assert secret not in created.stderr
    return secret


class RawHost:
    """A host over streamable HTTP that writes the older protocol itself, one call after the other.

    Args:
        url: where the server is.
        token: its bearer token.
    """

    def __init__(self, url: str, token: str) -> None:
        self._headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {token}"}
        self._url = url
        self._client = httpx.Client(timeout=30)
        self._number = 0
        client = {"name": "raw", "version": "1"}
        opened = self._post("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        self._headers |= {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        self._post("notifications/initialized")

    def call(self, tool: str, **arguments: object) -> tuple[bool, dict[str, Any]]:
        """Call a tool; say whether it refused, and give its structured answer."""
        answer = self._post("tools/call", name=tool, arguments=arguments)
        (data,) = [line.removeprefix("data: ") for line in answer.text.splitlines() if '"result"' in line]
        result = json.loads(data)["result"]
        return result.get("isError", False), result["structuredContent"]

    def ask(self, method: str, **params: object) -> str:
        """Ask for anything, and give all of the answer, refusals included."""
        answer = self._post(method, **params)
        return "".join(line for line in answer.text.splitlines() if line.startswith("data: {"))

    def close(self) -> None:
        """Leave."""
        self._client.close()

    def _post(self, method: str, **params: object) -> httpx.Response:
        self._number += 1
        number = {} if method.startswith("notifications/") else {"id": self._number}
        body = {"jsonrpc": "2.0", **number, "method": method, "params": params}
        answer = self._client.post(self._url, json=body, headers=self._headers)
        assert answer.is_success, answer.text
        return answer
