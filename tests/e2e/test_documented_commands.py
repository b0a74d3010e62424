"""Every command that the documents show, typed as it stands there."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosting import Environment, run_program

ROOT = Path(__file__).parents[2]
PROGRAM = "cycles-budget-mcp"

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SERVERS = ("serve", "authority")
"""Commands that serve until they are interrupted."""

ELSEWHERE = {
    "cycles-budget-mcp install claude-desktop --budget-usd 5": "test_install_command.py",
    "cycles-budget-mcp demo": "test_documents.py",
    "cycles-budget-mcp delegations show ID": "test_delegation_commands.py",
    "cycles-budget-mcp delegations cancel ID": "test_delegation_commands.py",
}
"""Commands that need a host, a delegation or much time, and the test that runs each of them."""


def commands(page: Path) -> Iterator[str]:
    """Yield the program's commands in a page's shell blocks, in their order, without comments."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            typed = shlex.join(shlex.split(line, comments=True))
            if typed.startswith(PROGRAM):
                yield typed


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: str(page.name))
def test_every_command_of_a_page_works_beside_a_new_budget(
    page: Path, environment: Environment, tmp_path: Path
) -> None:
    """In one data directory, one after another, as somebody who follows the page would type them."""
    environment["HOME"] = str(tmp_path)
    assert run_program(environment, "budget", "allocate", "1").returncode == 0
    for typed in commands(page):
        if typed in ELSEWHERE:
            continue
        arguments = [word.replace("~", str(tmp_path)) for word in shlex.split(typed)[1:]]
        if is_server(arguments):
            assert serves(arguments, environment), typed
            continue
        # Nobody is here to answer its question.
        done = run_program(environment, *arguments, *(["--yes"] if arguments[0] == "restore" else []))
        # The doctor's exit code is its verdict on the machine.
        assert done.returncode == 0 or (arguments[0] == "doctor" and done.returncode == 1), (typed, done.stderr)


def is_server(arguments: list[str]) -> bool:
    """Whether a command serves until it is interrupted."""
    return arguments[0] in SERVERS and arguments[1:2] != ["key"]


def serves(arguments: list[str], environment: Environment) -> bool:
    """Start a serving command on a free port, wait until it says where it is, and interrupt it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "budget_server", *arguments, "--port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            said = any("http://127.0.0.1:" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            return said and process.wait(30) in (0, 130, -signal.SIGINT)
        finally:
            process.kill()
