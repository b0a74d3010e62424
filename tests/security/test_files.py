"""Files: nobody else may read them, and nothing that stands in their place leads elsewhere."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hosting import Environment, complaint_of, run_process


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Settings of a server with one dollar."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "BUDGET_DATA_DIR": str(tmp_path / "data"),
        "BUDGET_USD": "1",
    }


def test_every_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path, environment: Environment) -> None:
    """Ledger, delegations, tokens, locks, backups and a host's file: 0600, in directories of 0700."""
    host = tmp_path / "host" / "host.json"
    (tmp_path / "host").mkdir(mode=0o700)
    commands = [
        [], ["budget", "show"], ["token", "create", "--name", "a"], ["authority", "key", "create", "--name", "a"],
        ["delegations", "list"], ["backup", str(tmp_path / "backup")], ["check"],
        ["install", "cursor", "--config", str(host), "--yes"],
        ["install", "cursor", "--config", str(host), "--yes", "--env", "A=B"],
    ]  # fmt: skip
    for command in commands:
        ended = subprocess.run(
            [sys.executable, "-c", "import os, sys; os.umask(0); os.execv(sys.argv[1], sys.argv[1:])",
             sys.executable, "-m", "budget_server", *command],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, (command, ended.stderr)

    made = [*(tmp_path / "data").rglob("*"), *(tmp_path / "backup").rglob("*"), *(tmp_path / "host").iterdir()]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [*made, tmp_path / "data", tmp_path / "backup"]}
    assert {path.name for path in made} >= {"ledger.sqlite3", "delegations.sqlite3", "host.json"}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


@pytest.mark.parametrize("name", ["ledger.sqlite3", "ledger.sqlite3.lock", "ledger.sqlite3.gate"])
def test_a_link_in_the_place_of_a_file_is_refused_and_what_it_leads_to_is_untouched(
    tmp_path: Path, environment: Environment, name: str
) -> None:
    """Who may write into the directory could otherwise have us write anywhere."""
    victim = tmp_path / "victim"
    victim.touch()  # empty, as a new ledger is: nothing but the link speaks against using it
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / name).symlink_to(victim)

    said = complaint_of(environment, "budget", "show")

    assert name in said
    assert victim.read_bytes() == b""


def test_a_file_with_a_second_name_is_refused(tmp_path: Path, environment: Environment) -> None:
    """Beside its other name there would be other locks and another log, and one file under two logs is lost."""
    assert run_process(environment, "budget", "show").returncode == 0
    ledger = tmp_path / "data" / "ledger.sqlite3"
    ledger.with_name("other").hardlink_to(ledger)

    said = complaint_of(environment, "budget", "show")

    assert said.startswith(f"The budget ledger {ledger} has another name as well (a hard link)")
    ledger.with_name("other").unlink()
    assert run_process(environment, "budget", "show").returncode == 0


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "..%2foutside"])
def test_no_id_leads_to_a_file(tmp_path: Path, environment: Environment, path: str) -> None:
    """Ids come from models: they are looked up, never made into a path."""
    before = sorted(path.name for path in tmp_path.iterdir())
    for command in (["delegations", "show", path], ["delegations", "cancel", path], ["token", "revoke", path]):
        ended = run_process(environment, *command)
        assert ended.returncode == 2, command
        assert len(ended.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) in (before, sorted([*before, "data"]))


def test_a_log_line_cannot_be_forged_from_outside(tmp_path: Path, environment: Environment) -> None:
    """What a file or a caller says may stand in a line, and must not make two of it."""
    prices = tmp_path / "prices.toml"
    prices.write_text('[models."a\\n2026-01-01 INFO charged 0\\u001b[2J"]\ninput = "x"\n', encoding="utf-8")
    forged = complaint_of({**environment, "BUDGET_PRICES": str(prices)}, "prices")
    servers = tmp_path / "servers.json"
    servers.write_text(json.dumps({"mcpServers": {"a\n2026 INFO \x1b[2J": {"command": 5}}}), encoding="utf-8")
    named = run_process({**environment, "BUDGET_SUBAGENT_SERVERS": str(servers)})

    assert forged.isprintable()
    (line,) = named.stderr.splitlines()
    assert line.isprintable()
