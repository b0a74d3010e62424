"""What the tests of the network transports share: the server as a process on a port, and hosts that connect to it."""

import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from hosting import Environment

ANNOUNCED = re.compile(r"cycles-budget-mcp on (http://127\.0\.0\.1:\d+)(/\w+)")
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

    def host(self, mode: str = "auto", token: str = "") -> Client:
        """Make a host; SSE knows the older protocol generation alone."""
        return host_of(self.transport, self.url, mode, token)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and give the exit code, and what was still said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said


def host_of(transport: str, url: str, mode: str = "auto", token: str = "") -> Client:
    """Make a host of a server over HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if transport == "sse":
        return Client(sse_client(url, headers=headers), mode="legacy")
    return Client(_streamable_http(url, headers), mode=mode)


@asynccontextmanager
async def _streamable_http(url: str, headers: dict[str, str]) -> AsyncIterator[Any]:
    async with create_mcp_http_client(headers=headers) as client, streamable_http_client(url, http_client=client) as to:
        yield to


@contextmanager
def serving(environment: Environment, transport: str, *arguments: str) -> Iterator[Served]:
    """Serve on a free port; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "budget_server", "serve", "--transport", transport, "--port", "0", *arguments],
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
