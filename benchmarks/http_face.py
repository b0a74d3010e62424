"""Reserves through the HTTP face, many clients at once, beside a fixed answer of the same web server.

The face is ``cycles-budget-mcp authority``, a process of its own over a durable ledger; beside it stands a Starlette
route that answers the same at once (``fixed_answer.py``), and one that makes a bare transaction of each request. The
clients write and read on sockets that are kept.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from anyio import to_thread
from benchmarks.bare_ledger import make_bare_ledger
from benchmarks.embedded import TENANT, intent, new_key, provision
from benchmarks.harness import CAVEATS, Comparison, Growth, Report, Run, Series, Times, measure_rounds, run, waits_text

from budget_server.config.paths import LEDGER_FILE

CLIENTS = 50
OURS, BARE = f"reserve over HTTP, {CLIENTS} clients", f"fixed answer, {CLIENTS} clients"
BARE_LEDGER = f"fixed answer and a bare transaction, {CLIENTS} clients"
ROUNDS, QUICK_ROUNDS, REQUESTS = 20, 5, 1_000
START_SECONDS = 30


class Caller:
    """One client, with a connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader, self._writer, self._key = reader, writer, key
        self.waits: list[float] = []
        """How long each answer took, in seconds."""

    async def reserve(self) -> None:
        """Ask for a reservation that must be granted."""
        body = json.dumps(intent(new_key())).encode()
        begun = time.perf_counter()
        self._writer.write(
            b"POST /v1/reservations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"X-Cycles-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s" % (self._key.encode(), len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        answer = await self._reader.readexactly(int(length[1]) if length else 0)
        self.waits.append(time.perf_counter() - begun)
        if not head.startswith(b"HTTP/1.1 200") or b'"ALLOW"' not in answer:
            raise RuntimeError(f"A request was not granted, so its time means nothing: {head!r} {answer!r}")


async def measure(given: Run) -> Report:
    """Let all clients ask both in turns, then ours ever more often."""
    bare_ledger = given.directory / "bare.db"
    await make_bare_ledger(bare_ledger)
    async with (
        _face(given.directory / "data") as ours_callers,
        _fixed(given.directory / "fixed.log") as bare_callers,
        _fixed(given.directory / "ledger.log", str(bare_ledger)) as ledger_callers,
    ):

        async def ours() -> Times:
            return {OURS: [await _seconds_each(ours_callers, REQUESTS)]}

        async def bare() -> Times:
            return {BARE: [await _seconds_each(bare_callers, REQUESTS)]}

        async def with_ledger() -> Times:
            return {BARE_LEDGER: [await _seconds_each(ledger_callers, REQUESTS)]}

        series = await measure_rounds(
            (bare, ours, with_ledger),
            rounds=QUICK_ROUNDS if given.is_quick else ROUNDS,
            warm_up_rounds=1,
            limit_seconds=60,
        )
        waits = {
            f"answers, {name}": waits_text([each for caller in callers for each in caller.waits])
            for name, callers in ((OURS, ours_callers), (BARE, bare_callers))
        }
        points: dict[int, Series] = {}
        for size in given.sizes(CLIENTS):
            points[size] = Series(name=OURS, rounds=((await _seconds_each(ours_callers, size),),))
    return Report(
        title="The HTTP face, beside a fixed answer of the same web server",
        comparisons=(
            Comparison(work=OURS, ours=series[OURS], baseline=series[BARE], target_ratio=1 / 0.6),
            Comparison(work=BARE_LEDGER, ours=series[BARE_LEDGER], baseline=series[BARE]),
            Comparison(work=OURS, ours=series[OURS], baseline=series[BARE_LEDGER]),
        ),
        growth=(Growth(work=OURS, of="requests of all together", points=points),),
        facts=waits,
        caveats=f"{CAVEATS} Shown is the time of all requests over their number; a target of 1.67 is 0.6 of the rate. "
        "The clients are one process, on the same processors.",
    )


async def _seconds_each(callers: list[Caller], requests: int) -> float:
    left = iter(range(requests))  # shared by all

    async def call(caller: Caller) -> None:
        for _ in left:
            await caller.reserve()

    begun = time.perf_counter()
    await asyncio.gather(*map(call, callers))
    return (time.perf_counter() - begun) / requests


@asynccontextmanager
async def _face(directory: Path) -> AsyncIterator[list[Caller]]:
    await to_thread.run_sync(lambda: directory.mkdir(mode=0o700))
    provision(directory / LEDGER_FILE)
    environment = {**os.environ, "BUDGET_DATA_DIR": str(directory), "BUDGET_USD": "", "CYCLES_BASE_URL": ""}
    command = [sys.executable, "-m", "budget_server", "authority"]
    created = await to_thread.run_sync(
        lambda: subprocess.run(
            [*command, "key", "create", "--tenant", TENANT], env=environment, capture_output=True, text=True, check=True
        )
    )
    log = directory / "log"
    async with _served([*command, "--port"], environment, created.stdout.strip(), log) as callers:
        yield callers


@asynccontextmanager
async def _fixed(log: Path, *arguments: str) -> AsyncIterator[list[Caller]]:
    async with _served(
        [sys.executable, "-m", "benchmarks.fixed_answer"], dict(os.environ), "none", log, *arguments
    ) as callers:
        yield callers


@asynccontextmanager
async def _served(
    command: list[str], environment: dict[str, str], key: str, log: Path, *arguments: str
) -> AsyncIterator[list[Caller]]:
    """Run a server on a free port, which follows the command, and connect all clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start() -> "tuple[subprocess.Popen[bytes], IO[bytes]]":
        output = log.open("wb")
        return subprocess.Popen(
            [*command, str(port), *arguments], env=environment, stdout=output, stderr=output
        ), output

    process, output = await to_thread.run_sync(start)
    try:
        async with asyncio.timeout(START_SECONDS):
            streams = [await _connect(port) for _ in range(CLIENTS)]
        yield [Caller(reader, writer, key) for reader, writer in streams]
        for _, writer in streams:
            writer.close()
    finally:
        process.kill()
        process.wait()
        output.close()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    run("benchmarks.http_face", measure, __doc__)
