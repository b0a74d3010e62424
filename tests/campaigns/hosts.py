"""Hosts of real server processes, which may be killed."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from hosting import Environment, GoneError

PATIENCE_SECONDS = 60
"""Longest wait for anything; whatever takes longer hangs."""


class Host:
    """One server process on its standard streams, as a host that may kill it sees it."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._answers: dict[int, dict[str, Any]] = {}
        self._heard = anyio.Event()
        self._is_over = False
        self._last_id = 0

    async def listen(self) -> None:
        """Note every answer until the process closes its output."""
        assert self._process.stdout is not None
        text = b""
        async for chunk in self._process.stdout:
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "id" in answer:
                    self._answers[answer["id"]] = answer
            self._tell()
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        heard, self._heard = self._heard, anyio.Event()
        heard.set()

    async def connect(self) -> None:
        """Shake hands."""
        information = {"name": "campaign", "version": "1"}
        await self._ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=information)
        await self._send({"method": "notifications/initialized"})

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool that must succeed, and give its structured result.

        Raises:
            GoneError: the process ended first.
        """
        result = await self._ask("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result["content"][0]["text"]
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    async def refused(self, tool: str, **arguments: object) -> str:
        """Call a tool that must refuse, and give its sentence.

        Raises:
            GoneError: the process ended first.
        """
        result = await self._ask("tools/call", name=tool, arguments=arguments)
        assert result["isError"]
        return str(result["content"][0]["text"])

    async def warm_up(self) -> None:
        """Have the process import what a delegation needs: a task that is refused, but late."""
        assert "nowhere" in await self.refused("delegate_to_claude", task="Do it.", tools=["nowhere__tool"])

    async def kill(self) -> None:
        """Kill it as an operating system does, and wait until it is gone."""
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def _ask(self, method: str, **params: object) -> dict[str, Any]:
        self._last_id += 1
        call_id = self._last_id
        await self._send({"id": call_id, "method": method, "params": params})
        with anyio.fail_after(PATIENCE_SECONDS):
            while call_id not in self._answers:
                if self._is_over:
                    raise GoneError
                await self._heard.wait()
        result: dict[str, Any] = self._answers.pop(call_id)["result"]
        return result

    async def _send(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            raise GoneError from None


@asynccontextmanager
async def hosted(environment: Environment, log: Path) -> AsyncIterator[Host]:
    """Start a server process; one that still runs at the end of the block is asked to end, by closing its input."""
    with log.open("ab") as complaints:
        process = await anyio.open_process([sys.executable, "-m", "budget_server"], env=environment, stderr=complaints)
    host = Host(process)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.listen)
            yield host
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.fail_after(PATIENCE_SECONDS):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


def environment_of(directory: Path, base_url: str, *, usd: str, servers: Path | None = None) -> Environment:
    """Settings of a fresh data directory below this one."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **own,
        "BUDGET_DATA_DIR": str(directory / "data"),
        "BUDGET_USD": usd,
        "ANTHROPIC_API_KEY": "test",
        "ANTHROPIC_BASE_URL": base_url,
        **({} if servers is None else {"BUDGET_SUBAGENT_SERVERS": str(servers)}),
    }


async def settled(host: Host) -> None:
    """Wait until nothing runs any more: a process that starts has settled what another left behind."""
    while (await host.call("list_delegations", status="running"))["delegations"]:
        await anyio.lowlevel.checkpoint()


async def delivered() -> None:
    """Let the scripted Claude read what a killed process had sent: the kernel has it already."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()
