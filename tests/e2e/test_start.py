"""Starting: what must be right, what is said when it is not, and what is left for later."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hosting import Environment, complaint_of, ledger_balance, run_program

SENTENCE_END = (".", ")")


def test_a_server_starts_and_leaves_with_its_input(environment: Environment) -> None:
    """The plain case, and the first budget is allocated by it."""
    ended = run_program(environment)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert ledger_balance(environment)["allocated"] == 100_000_000


@pytest.mark.parametrize(
    "value", ["five", "-1", "1e3", "0.000000001", "1_000", "99999999999999", "NaN", "$5", "\uff11"]
)
def test_a_malformed_budget_is_named_with_its_remedy(environment: Environment, value: str) -> None:
    """A wrong amount must never become another amount."""
    environment["BUDGET_USD"] = value

    line = complaint_of(environment)

    assert line.startswith("BUDGET_USD is wrong: ")
    assert line.endswith(SENTENCE_END)
    assert not Path(environment["BUDGET_DATA_DIR"]).exists()


def test_a_changed_first_budget_changes_nothing_and_says_so(environment: Environment) -> None:
    """BUDGET_USD is for a first start; silently ignoring it later would surprise."""
    run_program(environment)
    environment["BUDGET_USD"] = "7"

    ended = run_program(environment)

    assert ended.returncode == 0
    assert "BUDGET_USD=7.00 is ignored" in ended.stderr
    assert ledger_balance(environment)["allocated"] == 100_000_000


def test_a_price_in_another_unit_is_said_at_start_and_stays_in_force(environment: Environment, tmp_path: Path) -> None:
    """A person looks at the log of the start; the first call would be too late."""
    table = tmp_path / "prices.toml"
    table.write_text('[models.claude-sonnet-5-5]\ninput = "0.000002"\noutput = "0.00001"', encoding="utf-8")
    environment["BUDGET_PRICES"] = str(table)

    ended = run_program(environment)

    assert ended.returncode == 0
    assert 'The prices of "claude-sonnet-5-5"' in ended.stderr
    assert "per million tokens" in ended.stderr


def test_a_price_file_that_is_not_there_ends_the_start(environment: Environment, tmp_path: Path) -> None:
    """Other prices than the user believes would be in force."""
    environment["BUDGET_PRICES"] = str(tmp_path / "missing.toml")

    assert "missing.toml" in complaint_of(environment)


def test_a_data_directory_that_cannot_be_made_is_named(environment: Environment, tmp_path: Path) -> None:
    """An unwritable place is said at start, not at the first reserve."""
    (tmp_path / "file").write_text("not a directory")
    environment["BUDGET_DATA_DIR"] = str(tmp_path / "file" / "data")

    line = complaint_of(environment)

    assert str(tmp_path / "file" / "data") in line
    assert "BUDGET_DATA_DIR" in line


def test_a_foreign_file_in_the_ledgers_place_is_left_alone(environment: Environment) -> None:
    """Another program's file must not be written to."""
    ledger = Path(environment["BUDGET_DATA_DIR"]) / "ledger.sqlite3"
    ledger.parent.mkdir()
    ledger.write_text("my shopping list\n" * 100)

    line = complaint_of(environment)

    assert str(ledger) in line
    assert ledger.read_text() == "my shopping list\n" * 100


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not an mcpServers file"),
        ("{}", "mcpServers"),
        ('{"mcpServers": {"a": {"args": "no list"}}}', "mcpServers.a.args"),
    ],
)
def test_an_unreadable_tools_file_is_named(
    environment: Environment, tmp_path: Path, content: str | None, says: str
) -> None:
    """The sub-agent's servers are checked at start, where a person reads the log."""
    path = tmp_path / "servers.json"
    if content is not None:
        path.write_text(content)
    environment["BUDGET_SUBAGENT_SERVERS"] = str(path)

    line = complaint_of(environment)

    assert line.startswith(f"BUDGET_SUBAGENT_SERVERS: {path}")
    assert says in line


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"CYCLES_BASE_URL": "http://127.0.0.1:9"}, "CYCLES_API_KEY"),
        ({"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "secret-key"}, "CYCLES_TENANT"),
        ({"CYCLES_TENANT": "a/b"}, "CYCLES_TENANT"),
    ],
)
def test_an_incomplete_authority_is_named_without_its_secret(
    environment: Environment, settings: Environment, names: str
) -> None:
    """A Cycles server needs a key and a tenant; neither's value belongs into a log."""
    environment |= settings

    line = complaint_of(environment)

    assert names in line
    assert "secret-key" not in line


def test_an_empty_variable_counts_as_not_set(environment: Environment) -> None:
    """Hosts pass an empty string for what a person left blank."""
    environment |= {"CYCLES_BASE_URL": "", "ANTHROPIC_API_KEY": "", "BUDGET_PRICES": ""}

    assert run_program(environment).returncode == 0


def test_starting_imports_neither_anthropic_nor_the_command_line(environment: Environment) -> None:
    """A host starts the server for every conversation: what costs a second waits until it is needed."""
    program = (
        "import sys, json\n"
        "from budget_server.config.settings import read_settings\n"
        "from budget_server.services import Services\n"
        "from budget_server.mcp_server.server import create_server\n"
        "create_server(Services(read_settings()))\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=True
    )

    assert {"anthropic", "runcycles", "typer", "genai_prices"}.isdisjoint(json.loads(ended.stdout))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("budget", "show"),
        ("budget", "quota", "list"),
        ("delegations", "list"),
        ("prices",),
        ("check",),
        ("doctor",),
        ("token", "list"),
        ("authority", "key", "list"),
        ("install", "claude-code", "--print"),
        ("backup", "--help"),
    ],
    ids=" ".join,
)
def test_a_command_that_needs_no_mcp_imports_none(environment: Environment, arguments: tuple[str, ...]) -> None:
    """The SDK, a web server and the API's client take most of a second, and a person waits for it."""
    heavy = ("mcp", "mcp.types", "uvicorn", "starlette", "anthropic", "runcycles")
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr))\n"
        "from budget_server.__main__ import main\n"
        f"sys.argv = ['cycles-budget-mcp', *{arguments!r}]\n"
        "main()\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.stderr.splitlines()[-1] == "[]"


def test_help_and_version_say_what_the_program_does(environment: Environment) -> None:
    """The command line is where an operator looks first."""
    shown = run_program(environment, "--help")
    version = run_program(environment, "--version")

    assert shown.returncode == version.returncode == 0
    assert "serve" in shown.stdout
    assert "demo" in shown.stdout
    assert version.stdout.startswith("cycles-budget-mcp ")
