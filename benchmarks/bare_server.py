"""What ours is measured against: the smallest useful server of the bare SDK, with one tool that does nothing.

Given the path of a bare ledger, the tool first reserves by one bare transaction. Given an address, it first posts what
a reservation is asked for with, on one connection that is kept, and reads the answer: through a socket, since no client
library can be faster; or, asked for ``httpx``, through the library that ``runcycles`` is made of.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel

ASKED = json.dumps(
    {
        "idempotency_key": "00000000-0000-7000-8000-000000000000",
        "subject": {"tenant": "bench"},
        "action": {"kind": "llm.completion", "name": "llm.completion", "tags": []},
        "estimate": {"unit": "USD_MICROCENTS", "amount": 5_000_000},
        "ttl_ms": 3_600_000,
        "overage_policy": "ALLOW_IF_AVAILABLE",
        "dry_run": False,
    }
).encode()


class Done(BaseModel):
    """A small structured result."""

    is_done: bool
    what: str


class Poster:
    """One connection that is kept."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self._host, self._port = address.hostname, address.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self) -> None:
        """Ask, and read the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(
            b"POST /v1/reservations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"X-Cycles-API-Key: bench\r\nContent-Length: %d\r\n\r\n%s" % (len(ASKED), ASKED)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        json.loads(await reader.readexactly(int(length[1]) if length else 0))


def httpx_post(base_url: str) -> Callable[[], Awaitable[None]]:
    """Give what posts the same through httpx."""
    import httpx  # here: the smallest server stays small

    client = httpx.AsyncClient(base_url=base_url, headers={"X-Cycles-API-Key": "bench"})

    async def post() -> None:
        (await client.post("/v1/reservations", content=ASKED, headers={"Content-Type": "application/json"})).json()

    return post


def bare_transaction(path: str) -> Callable[[], Awaitable[None]]:
    """Give what reserves in a bare ledger."""
    from uuid import uuid4  # all of these here: the smallest server stays small

    from benchmarks.bare_ledger import BareLedger

    from budget_tools.core.ids import time_ordered_id

    ledger = BareLedger(Path(path))

    async def reserve() -> None:
        ledger.reserve(time_ordered_id(), uuid4().hex)

    return reserve


async def nothing() -> None:
    """Do nothing."""


def chosen_work(arguments: list[str]) -> Callable[[], Awaitable[None]]:
    """Read the command line."""
    match arguments:
        case ["ledger", path]:
            return bare_transaction(path)
        case [base_url, "httpx"]:
            return httpx_post(base_url)
        case [base_url]:
            return Poster(base_url).post
        case _:
            return nothing


server = MCPServer("bare", log_level="WARNING")
work = chosen_work(sys.argv[1:])


@server.tool()
async def do_nothing() -> Done:
    """Do nothing, and say so."""
    await work()
    return Done(is_done=True, what="nothing")


if __name__ == "__main__":
    server.run("stdio")
