"""A real host, where there is one."""

import json
import os
import sys
from pathlib import Path

import pytest

from hosting import BUDGET_USD, Environment
from hosts.claude_code import PROGRAM_VARIABLE


@pytest.fixture(scope="session")
def program() -> Path:
    """Claude Code; it is large, so only ``make hosts`` installs it."""
    named = os.environ.get(PROGRAM_VARIABLE, "")
    if not named:
        pytest.skip("Claude Code is not here: `make hosts` installs it and runs this.")
    return Path(named).absolute()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Settings of a fresh server with one dollar, and a workshop whose tools a sub-agent may be given."""
    servers = tmp_path / "servers.json"
    workshop = {"command": sys.executable, "args": ["-m", "budget_server.demo.workshop"]}
    servers.write_text(json.dumps({"mcpServers": {"workshop": workshop}}), encoding="utf-8")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "BUDGET_DATA_DIR": str(tmp_path / "data"),
        "BUDGET_USD": BUDGET_USD,
        "BUDGET_SUBAGENT_SERVERS": str(servers),
    }
