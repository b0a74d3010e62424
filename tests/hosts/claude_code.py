"""Claude Code as a host: the real program, in a home of its own, whose model is played by a script.

It reaches nothing but this machine: its model is a scripted endpoint on loopback, and what it would send elsewhere
(telemetry, error reports, updates) is switched off. It sees nothing of the caller's own home or environment.
"""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

from budget_server.demo.scripted_claude import ReceivedRequest, ScriptedClaude, ToolCall, Turn
from hosting import Environment

PROGRAM_VARIABLE = "CLAUDE_CODE"
"""Names the program; `make hosts` sets it."""
SERVER = "budget"
PATIENCE_SECONDS = 90
"""Longest wait for anything; whatever takes longer hangs."""

_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
_HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR")

Step = ToolCall | Callable[["Reading"], ToolCall]


def named(tool: str) -> str:
    """Give the name under which the host's model knows a tool of ours."""
    return f"mcp__{SERVER}__{tool}"


def calls(tool: str, **arguments: object) -> ToolCall:
    """A call of one of our tools."""
    return ToolCall(named(tool), arguments)


def loads(*tools: str) -> ToolCall:
    """A call of the host's own tool that loads those of ours that its model only knows by name."""
    return ToolCall("ToolSearch", {"query": "select:" + ",".join(map(named, tools))})


class Reading:
    """What the host's model has read: the answers to its calls so far, oldest first."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        results = list(_results(body))
        self.texts = [_text_of(each) for each in results]
        self.errors = [_text_of(each) for each in results if each.get("is_error")]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Any:
        """Give an answer of ours as the object that it is written as; any other fails here."""
        return json.loads(self.texts[index])


class Model:
    """The host's model, played: it takes one step after the other, then says that it is done.

    A step is a call, or what makes one of all that was read before.
    """

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self.readings: list[Reading] = []

    @property
    def read(self) -> Reading:
        """What it has read when it was asked last."""
        return self.readings[-1]

    def __call__(self, body: dict[str, Any], _number: int) -> Turn:
        """Answer a request of the host (a script)."""
        reading = Reading(body)
        self.readings.append(reading)
        taken = len(reading)
        if taken == len(self._steps):
            return Turn(text=f"(Scripted, not a model.) Done after {taken} calls.")
        step = self._steps[taken]
        return Turn(text=f"Step {taken + 1}.", tool_calls=(step if isinstance(step, ToolCall) else step(reading),))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run of the host ended: every event that it wrote, oldest first, and its exit code."""

    events: Sequence[Mapping[str, Any]]
    exit_code: int
    said: str

    @property
    def server_status(self) -> str:
        """How the host says that it stands with our server."""
        (server,) = (each for each in self._opening["mcp_servers"] if each["name"] == SERVER)
        return str(server["status"])

    @property
    def tools(self) -> set[str]:
        """The names of our tools, as the host knows them."""
        return {name for name in self._opening["tools"] if name.startswith("mcp__")}

    @property
    def result(self) -> Mapping[str, Any]:
        """Its last event, which says how the run went."""
        return self.events[-1]

    @property
    def _opening(self) -> Mapping[str, Any]:
        return next(event for event in self.events if event.get("subtype") == "init")


class ClaudeCode:
    """Claude Code, and a home that nobody else uses.

    Args:
        program: the program.
        directory: where its home, its settings and what it works on will be.
        model: what plays its model.
        variables: of its environment, beside those that keep it apart.
    """

    def __init__(
        self, program: Path, directory: Path, model: ScriptedClaude, variables: Mapping[str, str] | None = None
    ) -> None:
        self._program = program
        self.project = directory / "project"
        homes = {name: directory / name.lower() for name in _HOMES}
        for each in (self.project, *homes.values()):
            each.mkdir(parents=True, exist_ok=True)
        self.environment: Environment = {
            "PATH": os.environ["PATH"],
            **{name: str(path) for name, path in homes.items()},
            **_QUIET,
            "ANTHROPIC_API_KEY": "scripted-needs-no-key",
            "ANTHROPIC_BASE_URL": model.base_url,
            **(variables or {}),
        }

    def command(self, *arguments: str) -> str:
        """Run ``claude …`` to its end, and give what it prints."""
        ended = subprocess.run(
            [self._program, *arguments],
            env=self.environment,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    async def run(self, prompt: str, server: Mapping[str, object] | None = None) -> Ended:
        """Run it headless to its end."""
        async with self.running(prompt, server) as run:
            return await run.ended()

    @asynccontextmanager
    async def running(self, prompt: str, server: Mapping[str, object] | None = None) -> AsyncIterator["Run"]:
        """Run it headless, as a process that does not outlive the block.

        Args:
            prompt: what it is asked; a marker of the endpoint's conversations.
            server: our server as its only one, as an entry of ``mcpServers``; left out, what its own files name.
        """
        chosen: list[str] = []
        if server is not None:
            file = self.project.parent / "mcp.json"
            file.write_text(json.dumps({"mcpServers": {SERVER: server}}), encoding="utf-8")
            chosen = ["--mcp-config", str(file), "--strict-mcp-config"]
        shown = ["--output-format", "stream-json", "--verbose"]
        allowed = ["--allowedTools", f"mcp__{SERVER}"]
        process = await anyio.open_process(
            [self._program, "--print", prompt, *shown, *allowed, *chosen],
            env=self.environment,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that the whole group can be interrupted, as a terminal does
        )
        async with process:
            try:
                yield Run(process)
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)


class Run:
    """A headless run."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def interrupt(self) -> None:
        """Do what Ctrl-C does in a terminal: all of its processes are told."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the host alone, without a chance to say anything to anybody."""
        self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> Ended:
        """Wait for its end."""
        written: dict[str, bytes] = {}

        async def read(name: str, stream: Any) -> None:
            written[name] = b"".join([piece async for piece in stream])

        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, "events", self._process.stdout)
                tasks.start_soon(read, "said", self._process.stderr)
            exit_code = await self._process.wait()
        events = [json.loads(line) for line in written["events"].decode().splitlines()]
        return Ended(events=events, exit_code=exit_code, said=written["said"].decode())


def offered(request: ReceivedRequest) -> dict[str, Mapping[str, Any]]:
    """The tools of ours that a request of the host offers its model in full, by the names that it gives them."""
    return {tool["name"]: tool for tool in request.body["tools"] if tool["name"].startswith("mcp__")}


def requests_of(claude: ScriptedClaude, prompt: str) -> list[ReceivedRequest]:
    """The requests of one conversation, oldest first."""
    return [request for request in claude.message_requests if prompt in json.dumps(request.body["messages"][0])]


def _results(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in body["messages"]:
        if isinstance(message["content"], list):
            yield from (block for block in message["content"] if block.get("type") == "tool_result")


def _text_of(result: Mapping[str, Any]) -> str:
    content: Any = result.get("content", "")
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content)
