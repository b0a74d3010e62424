"""A mixed load for as long as one likes: does anything grow that should not?

Two servers share one data directory, as where several hosts are at work: one over stdio, one over streamable HTTP.
Both reserve, extend, commit, release, book, estimate, list and look; both delegate to a scripted Claude; over HTTP
clients come, listen to a budget, and go; and now and then a host starts another server over stdio and ends it. Every
few seconds their memory, file handles and threads are read, the files measured, and the calls timed.

The first minute after the warm-up is laid beside the last one. The exit code is 1 where anything has grown beyond its
bound (``vitals.py``), a call failed, money stayed held, or ``check`` finds the files unsound.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a benchmark runs as a file, from anywhere
from benchmarks.harness import Check, machine
from benchmarks.vitals import MOST_WAL_BYTES, Sample, Vitals, Window, children, compare

SECONDS = 600.0
CALLS_A_SECOND = 40.0
"""Of each of the two that settle; a bound, so that it is the time that is long and not the queue."""

SAMPLE_SECONDS = 5.0
WINDOW_SECONDS = 60.0
WARM_UP_SECONDS = 60.0
"""Until what is made once, on first use, has been made."""

DELEGATION_SECONDS, VISIT_SECONDS, START_SECONDS = 2.0, 1.0, 20.0
"""How far apart delegations, clients over HTTP and whole servers begin."""

_PATIENCE_SECONDS = 60
_BALANCES = "budget://balances"

Call = Callable[..., Awaitable[dict[str, Any]]]


class Log:
    """What the load has done so far."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: list[str] = []
        self._latencies: list[float] = []

    def calling(self, client: Client) -> Call:
        """Give what calls a tool of a server, times it, and notes what failed."""

        async def call(tool: str, **arguments: object) -> dict[str, Any]:
            begun = time.perf_counter()
            with anyio.fail_after(_PATIENCE_SECONDS):
                result = await client.call_tool(tool, arguments)
            if tool != "delegate_to_claude":  # many calls of the authority, and a model's time
                self._latencies.append(time.perf_counter() - begun)
            self.calls[tool] += 1
            if result.is_error or result.structured_content is None:
                self.failures.append(f"{tool}: {result.content}")
                raise RuntimeError(self.failures[-1])
            return dict(result.structured_content)

        return call

    def take_latencies(self) -> list[float]:
        """Give the seconds of the calls that ended since the last time this was asked."""
        taken, self._latencies = self._latencies, []
        return taken


# -- the load ---------------------------------------------------------------------------------------------------------


_CALLS_A_ROUND = 3.25
"""Of ``settle``, on average."""


async def settle(call: Call, number: int) -> None:
    """Reserve, and end that in one of the ways there are; look at things in between."""
    held = await call("reserve_budget", model="claude-sonnet-5-5", input_tokens=1_000, max_output_tokens=500)
    reservation = {"reservation_id": held["reservation_id"]}
    if number % 4 == 0:
        await call("extend_reservation", **reservation, seconds=60)
    if number % 3 == 0:
        await call("release_budget", **reservation)
    else:
        usage = {"input_tokens": 900, "output_tokens": 100 + number % 300}
        await call("commit_usage", **reservation, model="claude-sonnet-5-5", usage=usage)
    match number % 5:
        case 0:
            await call("estimate_cost", model="claude-sonnet-5-5", prompt="How much is it? " * 50)
        case 1:
            await call("check_budget")
        case 2:
            await call("list_reservations", limit=20)
        case 3:
            await call("record_usage", usd="0.0001", action_kind="tool.call")
        case _:
            await call("reserve_budget", usd="0.01", dry_run=True)


async def delegate(call: Call, number: int) -> None:
    """Hand a task to the scripted Claude."""
    told = await call("delegate_to_claude", task=f"Task {number}.")
    if told["status"] != "completed":
        raise RuntimeError(f"A delegation ended as {told['status']}: {told['hint']}")


async def paced(seconds: float, work: Callable[[int], Awaitable[None]], until: float) -> None:
    """Do a piece of work again and again, beginning them so far apart, or as they end where they take longer."""
    number, begins = 0, time.monotonic()
    while begins < until:
        await anyio.sleep(max(0.0, begins - time.monotonic()))
        await work(number)
        number, begins = number + 1, max(begins + seconds, time.monotonic())


async def keep_busy(client: Client, log: Log, until: float) -> None:
    """Settle and delegate through one client to the end."""
    call = log.calling(client)
    async with anyio.create_task_group() as load:
        load.start_soon(paced, _CALLS_A_ROUND / CALLS_A_SECOND, lambda number: settle(call, number), until)
        load.start_soon(paced, DELEGATION_SECONDS, lambda number: delegate(call, number), until)


async def visit(url: str, log: Log) -> None:
    """Come over HTTP, listen, move what is listened to, hear of it, and go."""
    async with http_client(url) as client, client.listen(resource_subscriptions=[_BALANCES]) as events:
        call = log.calling(client)
        held = await call("reserve_budget", usd="0.001")
        with anyio.fail_after(_PATIENCE_SECONDS):
            await anext(aiter(events))
        await call("release_budget", reservation_id=held["reservation_id"])
    log.calls["(visits over HTTP)"] += 1


async def start_and_end(server: StdioServerParameters, log: Log) -> None:
    """Start a server as a host does for a conversation, use it, and end it."""
    async with Client(stdio_client(server)) as client:
        call = log.calling(client)
        held = await call("reserve_budget", usd="0.001")
        await call("commit_usage", reservation_id=held["reservation_id"], usd="0.0005")
    log.calls["(servers started and ended)"] += 1


# -- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def announced(
    arguments: Sequence[str], pattern: str, environment: Mapping[str, str], log: Path
) -> Iterator[tuple[int, str]]:
    """Run a program until it says where it is, and to the end of the block; gives its process and that."""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while (found := re.search(pattern, log.read_text(encoding="utf-8"))) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{arguments[0]} did not start: {log.read_text(encoding='utf-8')}")
                time.sleep(0.05)
            yield process.pid, "".join(found.groups())
        finally:
            process.terminate()


@asynccontextmanager
async def http_client(url: str) -> AsyncIterator[Client]:
    """Connect over streamable HTTP."""
    async with Client(streamable_http_client(url)) as client:
        yield client


@asynccontextmanager
async def stdio_server(server: StdioServerParameters) -> AsyncIterator[tuple[int, Client]]:
    """Start a server over stdio; gives its process and its client."""
    before = children()
    async with Client(stdio_client(server)) as client:
        (pid,) = children() - before
        yield pid, client


def size(path: Path) -> int:
    """Give a file's size; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


async def soak(seconds: float, directory: Path) -> bool:
    """Put servers under load for so long, and say what came of it; gives whether all bounds were kept."""
    data = directory / "data"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"BUDGET_DATA_DIR": str(data), "BUDGET_USD": "1000000", "ANTHROPIC_API_KEY": "scripted"}
    log = Log()
    samples: list[Sample] = []
    scripted = ("budget_server.demo.scripted_claude", "answer", "--port", "0")
    with announced(scripted, r"ANTHROPIC_BASE_URL=(\S+)", environment, directory / "claude.log") as (_, claude_url):
        environment["ANTHROPIC_BASE_URL"] = claude_url
        serve = ("budget_server", "serve", "--transport", "streamable-http", "--port", "0")
        by_stdio = StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)
        with announced(serve, r"on (http://[\d.]+:\d+)(/\w+)", environment, directory / "http.log") as (http_pid, url):
            async with stdio_server(by_stdio) as (stdio_pid, over_stdio), http_client(url) as over_http:
                begun = time.monotonic()
                until = begun + seconds

                async def sample(_: int) -> None:
                    logs = [size(data / name) for name in ("ledger.sqlite3-wal", "delegations.sqlite3-wal")]
                    taken = Sample(
                        at_seconds=time.monotonic() - begun,
                        servers={"stdio": Vitals.of(stdio_pid), "http": Vitals.of(http_pid)},
                        ledger_bytes=size(data / "ledger.sqlite3") + logs[0],
                        wal_bytes=max(logs),
                        latencies=log.take_latencies(),
                    )
                    samples.append(taken)
                    print(taken.line(), flush=True)

                async with anyio.create_task_group() as load:
                    load.start_soon(keep_busy, over_stdio, log, until)
                    load.start_soon(keep_busy, over_http, log, until)
                    load.start_soon(paced, VISIT_SECONDS, lambda _: visit(url, log), until)
                    load.start_soon(paced, START_SECONDS, lambda _: start_and_end(by_stdio, log), until)
                    load.start_soon(paced, SAMPLE_SECONDS, sample, until)
                left = await log.calling(over_http)("check_budget")
    checked = await anyio.run_process([sys.executable, "-m", "budget_server", "check"], env=environment, check=False)
    found = "" if checked.returncode == 0 else (checked.stdout + checked.stderr).decode()
    held = sum(balance["reserved"]["amount"] for balance in left["balances"])
    return report(samples, log, held=held, found=found)


def report(samples: Sequence[Sample], log: Log, *, held: int, found: str) -> bool:
    """Print what came of it.

    Args:
        samples: in order.
        log: what was called.
        held: microcents that are still reserved.
        found: what ``check`` said, where it found anything.

    Returns:
        Whether all bounds were kept.
    """
    seconds = samples[-1].at_seconds
    window = min(WINDOW_SECONDS, seconds / 3)
    warm = min(WARM_UP_SECONDS, seconds / 3)
    first = Window(samples=[each for each in samples if warm < each.at_seconds <= warm + window])
    last = Window(samples=[each for each in samples if each.at_seconds > seconds - window])
    rows, checks = compare(first, last)
    longest = max(sample.wal_bytes for sample in samples)
    checks += [
        Check(
            what=f"no database's log is ever longer than {MOST_WAL_BYTES >> 20} MiB",
            holds=longest <= MOST_WAL_BYTES,
            found=f"{longest / (1 << 20):.1f} MiB",
        ),
        Check(what="no call failed", holds=not log.failures, found="; ".join(log.failures[:3])),
        Check(what="nothing is held at the end", holds=held == 0, found=f"{held} microcents"),
        Check(what="check finds nothing", holds=not found, found=found),
    ]
    print("\n" + "\n".join(f"{name}: {value}" for name, value in machine().items()))
    print("\n" + ", ".join(f"{count:,} {tool}" for tool, count in sorted(log.calls.items())))
    print(f"\n| over {seconds:.0f} s | first {window:.0f} s after {warm:.0f} s | last {window:.0f} s |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"| ledger and its log (MiB) | {_ledger(first)} | {_ledger(last)} |\n")
    for check in checks:
        print(f"{'yes' if check.holds else 'NO '} {check.what}" + ("" if check.holds else f": {check.found}"))
    return all(check.holds for check in checks)


def _ledger(window: Window) -> str:
    return f"{window.samples[-1].ledger_bytes / (1 << 20):.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run it; the exit code says whether every bound was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long (default: {SECONDS:.0f})")
    arguments = parser.parse_args(argv)
    if not Path("/proc/self/status").exists():
        parser.error("it reads /proc, which this system has not: run it on Linux.")
    # The SDK's client reports as an error what still comes when it leaves.
    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="cycles-budget-soak-") as directory:
        is_kept = anyio.run(soak, arguments.seconds, Path(directory))
    sys.exit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
