"""What is fuzzed: one server process for each generation of the protocol, over one ledger, with a scripted Claude."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from campaigns.fuzz.stdio_host import Generation, StdioHost, serving_stdio
from campaigns.fuzz.values import SECRET
from hosting import Environment, run_program

BUDGET_USD = "1000000"


@pytest.fixture(scope="session")
def tally() -> Iterator[Counter[str]]:
    """Counts inputs by what was fuzzed and what became of them; printed at the end, for whoever asks with ``-s``."""
    counted: Counter[str] = Counter()
    yield counted
    sys.stdout.write("".join(f"\n{what}: {times}" for what, times in sorted(counted.items())) + "\n")


@pytest.fixture(scope="session")
def claude_url() -> Iterator[str]:
    """A scripted Claude in a process of its own, that answers whatever is asked."""
    process = subprocess.Popen(
        [sys.executable, "-m", "budget_server.demo.scripted_claude", "answer", "--port", "0"],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://[\d.:]+\d", process.stderr.readline())
            assert address
            yield address[0]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, claude_url: str) -> Environment:
    """Settings of servers that may spend, and whose key is to be found nowhere."""
    return {
        "PATH": os.environ["PATH"],
        "BUDGET_DATA_DIR": str(tmp_path_factory.mktemp("fuzz") / "data"),
        "BUDGET_USD": BUDGET_USD,
        "ANTHROPIC_API_KEY": SECRET,
        "ANTHROPIC_BASE_URL": claude_url,
    }


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Iterator[dict[Generation, StdioHost]]:
    """A host of each generation; at the end, the ledger is sound and the secret is in none of the files."""
    logs = tmp_path_factory.mktemp("logs")
    generations: list[Generation] = ["2025-11-25", "2026-07-28"]
    with ExitStack() as stack:
        yield {
            each: stack.enter_context(serving_stdio(environment, logs / f"{each}.log", each)) for each in generations
        }
    checked = run_program(environment, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    written = [*Path(environment["BUDGET_DATA_DIR"]).rglob("*"), *logs.iterdir()]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]
