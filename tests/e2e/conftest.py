"""The server as its users run it: a subprocess that speaks MCP on standard input and output."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT

from hosting import BUDGET_USD, Environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Settings of a fresh server with one dollar; nothing of the caller's own environment but what a process needs."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**own, "BUDGET_DATA_DIR": str(tmp_path / "data"), "BUDGET_USD": BUDGET_USD}


@pytest.fixture
def workshop(tmp_path: Path, environment: Environment) -> Path:
    """An mcpServers file with the demonstration's workshop, set in the environment."""
    path = tmp_path / "servers.json"
    entry = {"command": sys.executable, "args": ["-m", "budget_server.demo.workshop"]}
    path.write_text(json.dumps({"mcpServers": {"workshop": entry}}), encoding="utf-8")
    environment["BUDGET_SUBAGENT_SERVERS"] = str(path)
    return path


@pytest.fixture
def host(environment: Environment) -> Callable[..., Client]:
    """What connects a host to a new server process each time it is called."""

    def connect(mode: str = "auto", person: ElicitationFnT | None = None) -> Client:
        parameters = StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)
        return Client(parameters, mode=mode, elicitation_callback=person)

    return connect
