"""What the end-to-end tests share: calling tools as a host does, and reading the ledger from outside."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from mcp import Client
from mcp.client import ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult

from budget_server.authority.listing import balances
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.transports.logs import LineFormatter

BUDGET_USD = "1.00"
ALLOCATED = 100_000_000
"""The same in microcents."""

Environment = dict[str, str]


@contextlib.contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Hold the body to a time, in the campaigns alone: on a busy machine it would say nothing of the program.

    ``ASSERT_TIMES`` in the environment asks for it (``make campaigns``).
    """
    started = time.monotonic()
    yield
    if os.environ.get("ASSERT_TIMES"):
        assert time.monotonic() - started < seconds


class GoneError(Exception):
    """A server process ended before it answered, or before it could be asked."""


class Person:
    """Answers what a host asks (an elicitation callback), each time the next of its answers, the last one for ever.

    Args:
        answers: an action alone, or the content that is accepted.
    """

    def __init__(self, *answers: str | Mapping[str, str | bool]) -> None:
        self.asked: list[str] = []
        self._answers = [
            {"action": each} if isinstance(each, str) else {"action": "accept", "content": each} for each in answers
        ]

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:  # noqa: ARG002 - the SDK's names
        """Answer one question."""
        self.asked.append(params.message)
        return ElicitResult.model_validate(self._answers[min(len(self.asked), len(self._answers)) - 1])


def text_of(result: CallToolResult) -> str:
    """The text that a model would read."""
    block = result.content[0]
    assert block.type == "text"
    return block.text


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool that must succeed and give its structured result."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool that must refuse with one sentence, and give the sentence."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    text = text_of(result)
    assert "\n" not in text
    assert "Error executing" not in text
    return text


def ledger_balance(environment: Mapping[str, str], tenant: str = "local") -> dict[str, int]:
    """Read the budget from the ledger file, after the server has gone or beside it."""
    store = LedgerStore(Path(environment["BUDGET_DATA_DIR"]) / LEDGER_FILE)
    try:
        (row,) = store.run(lambda ledger: balances(ledger.db, tenant, {"tenant": tenant})).body["balances"]
    finally:
        store.close()
    return {name: int(row[name]["amount"]) for name in ("allocated", "remaining", "reserved", "spent")}


def assert_spent(environment: Environment, spent: int) -> None:
    """Assert that the ledger has this much spent, in microcents, and nothing held."""
    assert ledger_balance(environment) == {
        "allocated": ALLOCATED,
        "spent": spent,
        "reserved": 0,
        "remaining": ALLOCATED - spent,
    }


def run_process(
    environment: Environment, *arguments: str, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``cycles-budget-mcp …`` as a process of its own to its end, with nothing to read and no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "budget_server", *arguments],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_program(
    environment: Environment, *arguments: str, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command in this process, as ``run_process`` would: most tests are not about processes."""
    from budget_server.cli.app import app

    if not arguments:
        return run_process(environment, cwd=cwd)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        stack.enter_context(_logging_to(stderr))
        # In a thread of its own: a command runs an event loop, and so may the test.
        with ThreadPoolExecutor(1) as thread:
            code = thread.submit(_exit_code_of, app, arguments).result()
    return subprocess.CompletedProcess(list(arguments), code, stdout.getvalue(), stderr.getvalue())


def _exit_code_of(app: Callable[..., None], arguments: Sequence[str]) -> int:
    try:
        app(list(arguments), prog_name="cycles-budget-mcp")
    except SystemExit as exc:
        code = exc.code
    else:
        code = 0
    assert code is None or isinstance(code, int), code
    return code or 0


@contextlib.contextmanager
def _logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log to a stream, in the form of the program's own log."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def complaint_of(environment: Environment, *arguments: str) -> str:
    """Run a command that must refuse with exit code 2, and give its one line."""
    ended = run_program(environment, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("cycles-budget-mcp: ")
