"""Real server processes for the fault tests, and a host for each that writes the protocol's lines itself."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread

from hosting import GoneError

WORKER = Path(__file__).with_name("worker.py")
IMPATIENT_SECONDS = 0.5
"""How long a server waits for the authority's answers, or for a ledger that another process holds."""

PATIENCE_SECONDS = 20
"""Longest wait for anything; whatever takes longer hangs."""

NO_CONSTANTS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a process stops: it is killed there, or waits to be told to go on; at a place of ``places.py`` it dies."""

    name: str
    nth: int = 1
    kills: bool = True


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so that happens in another process, which tells nobody."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.02)


class Nursery:
    """The process that server processes are forked from; one for all tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen([sys.executable, str(WORKER)], stdin=theirs.fileno(), env=environment)

    def close(self) -> None:
        """End it."""
        self._channel.close()
        self._process.wait(PATIENCE_SECONDS)

    def fork(
        self,
        environment: Mapping[str, str],
        *,
        log: Path,
        point: Point | None = None,
        constants: Mapping[str, object] = NO_CONSTANTS,
        patience_seconds: float = IMPATIENT_SECONDS,
        clock: Path | None = None,
    ) -> "Host":
        """Start a server, and be its host.

        Args:
            environment: all of its environment variables.
            log: where its standard error goes.
            point: where it stops.
            constants: what to put in the place of constants of its modules, as ``module:NAME``.
            patience_seconds: how long it waits for the authority and the ledger.
            clock: a file that says how its wall clock goes (``worker.py``); right by default.
        """
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        our_reached, their_reached = os.pipe()
        their_go_on, our_go_on = os.pipe()
        their_log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        order = {
            "environment": dict(environment),
            "point": point.name if point else "",
            "nth": point.nth if point else 0,
            "kills": point is not None and point.kills,
            "constants": dict(constants),
            "patience_seconds": patience_seconds,
            "clock": str(clock or ""),
        }
        theirs = [their_in, their_out, their_log, their_reached, their_go_on]
        pid = int(self._ask(order, theirs)["pid"])
        for fd in theirs:
            os.close(fd)
        return Host(self, pid=pid, to=our_in, from_=our_out, reached=our_reached, go_on=our_go_on, log=log)

    def wait(self, pid: int) -> int:
        """Wait until a server has ended, with all its locks let go, and give its exit code."""
        exit_code = self._ask({"wait": pid, "seconds": PATIENCE_SECONDS}, [])["exit_code"]
        assert exit_code is not None, "the server does not end"
        return int(exit_code)

    def _ask(self, order: Mapping[str, Any], fds: list[int]) -> dict[str, Any]:
        with self._lock:  # threads wait for the ends of servers
            socket.send_fds(self._channel, [json.dumps(order).encode()], fds)
            answer: dict[str, Any] = json.loads(self._channel.recv(1 << 16))
        return answer


class Host:
    """A host of one server process, over the ends of its pipes."""

    def __init__(self, nursery: Nursery, *, pid: int, to: int, from_: int, reached: int, go_on: int, log: Path) -> None:
        self.pid = pid
        self._log = log
        self._nursery = nursery
        self._to, self._reached, self._go_on = to, reached, go_on
        self._output = os.fdopen(from_, "rb", buffering=0)
        self._fds = [to, reached, go_on]
        self._lines: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0
        self._exit_code: int | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the server has closed its output, as its end does."""
        return self._lines is not None and self._lines.at_eof()

    def begin(self, tool: str, **arguments: object) -> int:
        """Call a tool without waiting for its answer, and give the call's id."""
        if not self._next_id:
            client = {"name": "faults", "version": "1"}
            self._send("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
            self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self._send("tools/call", name=tool, arguments=arguments)

    async def answer(self, call_id: int) -> dict[str, Any]:
        """Wait for a call, which must succeed, and give its structured result."""
        result = await self.result(call_id)
        assert not result.get("isError"), result["content"]
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    async def refusal(self, call_id: int) -> str:
        """Wait for a call, which must fail, and give its sentence."""
        result = await self.result(call_id)
        assert result.get("isError"), result
        return str(result["content"][0]["text"])

    async def result(self, call_id: int) -> dict[str, Any]:
        """Wait for a call, and give its result, whether or not it succeeded.

        Raises:
            GoneError: the server ended first.
        """
        with anyio.fail_after(PATIENCE_SECONDS):
            while call_id not in self._answers:
                message = json.loads(await self._line())
                if "id" in message:
                    self._answers[message["id"]] = message
        result: dict[str, Any] = self._answers.pop(call_id)["result"]
        return result

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool that must succeed, and give its structured result."""
        return await self.answer(self.begin(tool, **arguments))

    def cancel(self, call_id: int) -> None:
        """Give up a call, as a host does whose user lost patience."""
        self._write(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call_id, "reason": "?"}}
        )

    async def says(self, words: str) -> None:
        """Wait until the server's log says this."""
        await until(lambda: words in self._log.read_text(encoding="utf-8"))

    async def paused(self) -> None:
        """Wait until the server waits at its point."""
        with anyio.fail_after(PATIENCE_SECONDS):
            await anyio.wait_readable(self._reached)
        assert os.read(self._reached, 1) == b"!"

    def resume(self) -> None:
        """Let the server go on from its point."""
        os.write(self._go_on, b"!")

    async def died(self) -> None:
        """Wait until the server has killed itself at its point."""
        assert await self._ended() == -signal.SIGKILL

    async def kill(self) -> None:
        """Kill the server, wherever it is."""
        if self._exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            await self.died()

    async def leave(self) -> None:
        """Close the server's standard input, and wait for its orderly end."""
        os.close(self._to)
        self._fds.remove(self._to)
        assert await self._ended() == 0

    async def aclose(self) -> None:
        """Leave nothing behind."""
        await self.kill()
        for fd in self._fds:
            os.close(fd)
        if self._transport is not None:
            self._transport.close()
        else:
            self._output.close()

    async def _ended(self) -> int:
        if self._exit_code is None:
            self._exit_code = await anyio.to_thread.run_sync(self._nursery.wait, self.pid)
        return self._exit_code

    async def _line(self) -> bytes:
        if self._lines is None:
            self._lines = lines = asyncio.StreamReader(limit=1 << 24)
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), self._output
            )
        line = await self._lines.readline()
        if not line:
            raise GoneError
        return line

    def _send(self, method: str, **params: object) -> int:
        self._next_id += 1
        self._write({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})
        return self._next_id

    def _write(self, message: Mapping[str, object]) -> None:
        try:
            os.write(self._to, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise GoneError from None
