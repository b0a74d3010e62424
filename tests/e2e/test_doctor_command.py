"""``cycles-budget-mcp doctor``: one line for each thing, what to do where it is not well, and never a secret."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import apsw
import pytest
from mcp import Client, StdioServerParameters
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from budget_server.authority import keys
from budget_server.authority.budgets import allocate_first
from budget_server.authority.http import create_app
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from contract.face import Face
from hosting import Environment, call, run_program

KEY = "sk-ant-not-a-real-one"


class Diagnosis(NamedTuple):
    """What the command answered."""

    code: int
    lines: list[tuple[str, str]]
    output: str

    def says(self, level: str, *words: str) -> bool:
        """Say whether one line of this level has all of the words."""
        return any(found == level and all(word in text for word in words) for found, text in self.lines)


def doctor(environment: Environment, *arguments: str, cwd: Path | None = None) -> Diagnosis:
    """Run ``cycles-budget-mcp doctor``; every line of it has a level and a text."""
    ended = run_program(environment, "doctor", *arguments, cwd=cwd)
    lines = [(line[:8].strip(), line[9:]) for line in ended.stdout.splitlines()]
    assert {level for level, _ in lines} <= {"ok", "warning", "problem"}, ended.stdout + ended.stderr
    assert all(text for _, text in lines)
    assert (ended.returncode == 1) == any(level == "problem" for level, _ in lines)
    return Diagnosis(ended.returncode, lines, ended.stdout + ended.stderr)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, environment: Environment) -> Path:
    """A home of its own, with Cursor in it."""
    home = tmp_path / "home"
    (home / ".cursor").mkdir(parents=True)
    environment["HOME"] = str(home)
    return home


def data(environment: Environment) -> Path:
    """Give the data directory."""
    return Path(environment["BUDGET_DATA_DIR"])


def test_before_the_first_start_it_says_what_will_be_and_makes_nothing(environment: Environment) -> None:
    """Looking must not make a ledger: its first budget is granted by a start."""
    found = doctor(environment)

    assert found.code == 0
    assert found.says("ok", "cycles-budget-mcp", "Python", sys.executable)
    assert found.says("ok", "mcp ", "anthropic ", "runcycles ")
    assert found.says("ok", "SQLite 3.")
    assert found.says("ok", "data directory", "is made at the first start")
    assert found.says("ok", "The ledger is made at the first start, with $1.00")
    assert found.says("ok", "the default is claude-sonnet-5-5")
    assert found.says("ok", "No tools for sub-agents")
    assert found.says("warning", "ANTHROPIC_API_KEY is not set")
    assert found.says("warning", "No host", "cycles-budget-mcp install")
    assert not data(environment).exists()


def test_what_a_person_is_asked_is_said(environment: Environment) -> None:
    """A setting that a Cycles server makes idle is not passed over."""
    environment |= {"BUDGET_CONFIRM_USD": "0.50", "BUDGET_RAISE_TO_USD": "20"}
    local = doctor(environment)
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "k", "CYCLES_TENANT": "acme"}
    remote = doctor(environment)

    assert local.says("ok", "A person confirms a delegation that may spend more than $0.50")
    assert local.says("ok", "A person may raise the budget to $20.00")
    assert remote.says("warning", "BUDGET_RAISE_TO_USD does nothing")


def test_without_a_first_budget_it_says_how_to_set_one(environment: Environment) -> None:
    """Nothing can be reserved then, and nothing else is wrong."""
    del environment["BUDGET_USD"]

    assert doctor(environment).says("warning", "no budget yet", "budget allocate 5")


def test_what_is_left_and_what_is_held_is_shown_beside_a_running_server(
    host: Callable[..., Client], environment: Environment
) -> None:
    """The ledger is shared: nobody has to stop a server to look."""

    async def look() -> Diagnosis:
        with anyio.fail_after(60):
            async with host() as client:
                await call(client, "reserve_budget", usd="0.25")
                return await anyio.to_thread.run_sync(doctor, environment)

    found = anyio.run(look)

    assert found.code == 0
    assert found.says("ok", LEDGER_FILE, "is sound: 1 reservations")
    assert found.says("ok", "The budget: $0.75 of $1.00 left, $0.25 held")


def test_what_a_budget_could_not_cover_is_a_warning_until_it_is_cleared(
    environment: Environment, host: Callable[..., Client]
) -> None:
    """It was spent, and stands in no budget: a person has to see it."""

    async def spend() -> None:
        with anyio.fail_after(60):
            async with host() as client:
                await call(client, "record_usage", usd="1.25")

    anyio.run(spend)
    found = doctor(environment)
    cleared = run_program(environment, "budget", "clear")

    assert found.says("warning", "The budget could not cover $0.25 that was spent", "budget clear")
    assert cleared.returncode == 0
    assert not doctor(environment).says("warning", "could not cover")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("budget", "freeze"), ("The budget is FROZEN",)),
        (("budget", "allocate", "0"), ("The budget is used up", "budget fund")),
        (("budget", "allocate", "0", "--scope", "tenant:local/agent:bot"), ("The budget of tenant:local/agent:bot",)),
    ],
)
def test_a_budget_that_gives_nothing_is_a_warning(
    environment: Environment, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """People do that on purpose, and then look for the reason."""
    run_program(environment, "budget", "show")
    run_program(environment, *arguments)

    assert doctor(environment).says("warning", *words)


def test_a_ledger_that_is_not_sound_is_a_problem_and_stays_as_it_is(environment: Environment) -> None:
    """As ``check`` finds it, in the same words."""
    run_program(environment, "budget", "show")
    path = data(environment) / LEDGER_FILE
    db = apsw.Connection(str(path))
    db.execute("UPDATE budgets SET spent = 1, remaining = remaining - 1")
    db.close()
    before = path.read_bytes()

    assert doctor(environment).says("problem", "tenant:local in USD_MICROCENTS has 1 spent")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", [LEDGER_FILE, DELEGATIONS_FILE])
def test_a_file_that_is_no_database_is_a_problem(environment: Environment, name: str) -> None:
    """Something else in the file's place, or a disk that failed."""
    data(environment).mkdir(mode=0o700)
    (data(environment) / name).write_text("no database" * 1_000, encoding="utf-8")

    assert doctor(environment).says("problem", name, "cannot be read")


@pytest.mark.parametrize("name", [LEDGER_FILE, DELEGATIONS_FILE])
def test_another_programs_database_is_a_problem(environment: Environment, name: str) -> None:
    """Its header carries another mark."""
    data(environment).mkdir(mode=0o700)
    db = apsw.Connection(str(data(environment) / name))
    db.execute("CREATE TABLE theirs (x)")
    db.close()

    assert doctor(environment).says("problem", name)


def test_a_data_directory_that_others_can_look_into_is_a_warning(environment: Environment) -> None:
    """Conversations lie in it."""
    data(environment).mkdir()
    data(environment).chmod(0o755)

    assert doctor(environment).says("warning", f"chmod 700 {data(environment)}")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give a directory away")
def test_a_data_directory_of_another_user_is_warned_of(environment: Environment) -> None:
    """Its owner may put other files in the place of ours, whatever their modes."""
    data(environment).mkdir(mode=0o700)
    os.chown(data(environment), 12_345, -1)

    assert doctor(environment).says("warning", "belongs to another user (12345)", "of your own")


def test_a_data_directory_that_is_synchronised_is_a_warning(environment: Environment, tmp_path: Path) -> None:
    """A ledger that is copied while it is written is torn."""
    environment["BUDGET_DATA_DIR"] = str(tmp_path / "Dropbox" / "budget")
    data(environment).mkdir(parents=True, mode=0o700)

    assert doctor(environment).says("warning", "Dropbox", "set BUDGET_DATA_DIR")


@pytest.mark.parametrize(
    ("directory", "says"),
    [("file", "is not a directory"), ("file/data", "cannot be made"), ("/proc/self", "cannot be written")],
)
def test_a_data_directory_that_cannot_be_used_is_a_problem(
    environment: Environment, tmp_path: Path, directory: str, says: str
) -> None:
    """A file in its place, below a file, and where nobody can write."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    environment["BUDGET_DATA_DIR"] = str(tmp_path / directory)

    assert doctor(environment).says("problem", says, "set BUDGET_DATA_DIR")


def test_what_a_killed_process_left_behind_is_a_warning(environment: Environment, tmp_path: Path) -> None:
    """Delegations without an owner and commits without an answer: nothing is lost, the next start settles them."""
    environment["ANTHROPIC_API_KEY"] = KEY

    async def leave() -> None:
        with anyio.fail_after(60):
            async with ScriptedClaude([Turn(text="Never read.", hold=anyio.Event())]) as endpoint:
                environment["ANTHROPIC_BASE_URL"] = endpoint.base_url
                await _killed_while_it_delegates(environment, endpoint, tmp_path / "pid")

    anyio.run(leave)
    journal = data(environment) / JOURNAL_DIRECTORY / "x"
    journal.mkdir(parents=True)
    (journal / "commit.json").write_text("{}", encoding="utf-8")

    found = doctor(environment)

    assert found.says("warning", "1 delegation was left behind by a process that died", "in flight at most")
    assert not found.says("warning", "$0.00 in flight")
    assert found.says("warning", "1 commit was not answered yet")
    assert found.says("ok", "The delegations", "1 kept, 0 running")


async def _killed_while_it_delegates(environment: Environment, endpoint: ScriptedClaude, pid: Path) -> None:
    program = (
        f"import os, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid()));"
        "from budget_server.__main__ import main; main()"
    )
    async with Client(StdioServerParameters(command=sys.executable, args=["-c", program], env=environment)) as client:
        started = await call(client, "delegate_to_claude", task="Wait.", wait_seconds=0)
        await endpoint.wait_for_requests(1)
        os.kill(int(await anyio.Path(pid).read_text(encoding="utf-8")), signal.SIGKILL)
    assert started["status"] == "running"


def test_a_wrong_setting_is_a_problem_and_the_rest_is_looked_at_all_the_same(environment: Environment) -> None:
    """The first thing that a start would say."""
    environment["BUDGET_USD"] = "five"

    found = doctor(environment)

    assert found.says("problem", "BUDGET_USD is wrong")
    assert found.says("warning", "No host")


@pytest.mark.parametrize(
    ("model", "level", "says"),
    [
        ("claude-opus-4-0", "problem", "was retired on 2026-06-15"),
        ("claude-nothing-9", "problem", "claude-nothing-9"),
    ],
)
def test_a_default_model_that_cannot_serve_is_named(
    environment: Environment, model: str, level: str, says: str
) -> None:
    """Every delegation that names no model would fail."""
    environment["BUDGET_MODEL"] = model

    assert doctor(environment).says(level, "BUDGET_MODEL", says)


def test_a_price_table_that_cannot_be_read_is_a_problem(environment: Environment, tmp_path: Path) -> None:
    """What a start would refuse."""
    (tmp_path / "prices.toml").write_text("[models", encoding="utf-8")
    environment["BUDGET_PRICES"] = str(tmp_path / "prices.toml")

    assert doctor(environment).says("problem", "prices.toml")


def test_a_price_in_another_unit_is_a_warning(environment: Environment, tmp_path: Path) -> None:
    """A price per token charges a millionth: delegations would go on and on."""
    table = '[models.claude-sonnet-5-5]\ninput = "0.000002"\noutput = "0.00001"'
    (tmp_path / "prices.toml").write_text(table, encoding="utf-8")
    environment["BUDGET_PRICES"] = str(tmp_path / "prices.toml")

    assert doctor(environment).says("warning", "claude-sonnet-5-5", "per million tokens")


def test_a_tools_file_that_cannot_be_read_is_a_problem(environment: Environment, workshop: Path) -> None:
    """What a start would refuse."""
    workshop.write_text("{", encoding="utf-8")

    assert doctor(environment).says("problem", str(workshop), "is not an mcpServers file")


def test_the_servers_of_tools_are_started_only_when_that_is_asked_for(
    environment: Environment, workshop: Path, tmp_path: Path
) -> None:
    """A server may do anything as it starts; each that does not is a problem of its own."""
    entries = json.loads(workshop.read_text(encoding="utf-8"))["mcpServers"]
    script = f"import pathlib; pathlib.Path({str(tmp_path / 'started')!r}).touch()"
    entries["broken"] = {"command": sys.executable, "args": ["-c", script], "env": {"TOKEN": KEY}}
    workshop.write_text(json.dumps({"mcpServers": entries}), encoding="utf-8")

    unasked = doctor(environment)
    was_started = (tmp_path / "started").exists()
    asked = doctor(environment, "--servers")

    assert unasked.code == 0
    assert unasked.says("ok", "workshop, broken", "--servers")
    assert not was_started
    assert asked.says("ok", "'workshop' offers")
    assert asked.says("problem", "'broken'")
    assert (tmp_path / "started").exists()
    assert KEY not in unasked.output + asked.output


def test_the_api_is_asked_only_when_that_is_wanted_and_the_key_is_never_shown(environment: Environment) -> None:
    """One count of tokens, free of charge."""
    environment["ANTHROPIC_API_KEY"] = KEY

    async def ask() -> tuple[Diagnosis, int, Diagnosis, list[str]]:
        with anyio.fail_after(60):
            async with ScriptedClaude() as endpoint:
                environment["ANTHROPIC_BASE_URL"] = endpoint.base_url
                unasked = await anyio.to_thread.run_sync(doctor, environment)
                before = len(endpoint.requests)
                asked = await anyio.to_thread.run_sync(doctor, environment, "--online")
                return unasked, before, asked, [request.path for request in endpoint.requests]

    unasked, before, asked, paths = anyio.run(ask)

    assert unasked.says("ok", "ANTHROPIC_API_KEY is set; --online")
    assert before == 0
    assert asked.says("ok", "The Claude API takes ANTHROPIC_API_KEY, and serves claude-sonnet-5-5")
    assert paths == ["/v1/messages/count_tokens"]
    assert KEY not in unasked.output + asked.output


@pytest.mark.parametrize(
    ("status", "level", "says"),
    [(401, "problem", "refuses ANTHROPIC_API_KEY"), (404, "problem", "no model"), (529, "warning", "HTTP 529")],
)
def test_what_the_api_answers_is_told(environment: Environment, face: Face, status: int, level: str, says: str) -> None:
    """A key that was revoked, a model that is not there, an API that is overloaded."""
    face.app = Starlette(routes=[Route("/v1/messages/count_tokens", _answering(status), methods=["POST"])])
    environment |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": face.address}

    found = doctor(environment, "--online")

    assert found.says(level, says)
    assert KEY not in found.output


def _answering(status: int) -> Callable[[Any], JSONResponse]:
    def answer(_request: object) -> JSONResponse:
        error = {"type": "error", "error": {"type": "some_error", "message": f"model: no {KEY}"}}
        return JSONResponse(error, status_code=status)

    return answer


def test_an_api_that_cannot_be_reached_is_a_problem(environment: Environment) -> None:
    """No network, or a wrong address."""
    environment |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}

    assert doctor(environment, "--online").says("problem", "gave no answer", "ANTHROPIC_BASE_URL")


@pytest.fixture
def remote(environment: Environment, tmp_path: Path, face: Face) -> Iterator[Environment]:
    """A Cycles server with ten cents for a tenant."""
    store = LedgerStore(tmp_path / "remote" / LEDGER_FILE)
    store.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="USD_MICROCENTS", amount=10_000_000))
    _, secret = store.run(
        lambda ledger: keys.create(ledger.db, tenant="acme", name="", now_ms=ledger.now_ms, expires_at_ms=None)
    )
    writer = Writer(store)
    face.app = create_app(AsyncFile(writer))
    environment |= {"CYCLES_BASE_URL": face.address, "CYCLES_API_KEY": secret, "CYCLES_TENANT": "acme"}
    yield environment
    writer.close()


def test_a_cycles_server_is_asked_what_is_left(remote: Environment) -> None:
    """Budgets live there, and its key is not shown."""
    found = doctor(remote)

    assert found.says("ok", "The budget on http://127.0.0.1:", "$0.10 left")
    assert remote["CYCLES_API_KEY"] not in found.output


def test_a_cycles_server_that_refuses_the_key_or_is_away_is_a_problem(remote: Environment) -> None:
    """Both look alike from within a delegation: nothing is reserved."""
    remote["CYCLES_API_KEY"] = KEY
    refused = doctor(remote)
    remote["CYCLES_BASE_URL"] = "http://somebody:word@127.0.0.1:9"
    away = doctor(remote)

    assert refused.says("problem", "check CYCLES_API_KEY and CYCLES_TENANT")
    assert away.says("problem", "http://127.0.0.1:9", "cannot be reached")
    assert KEY not in refused.output + away.output
    assert "word" not in away.output


def test_a_registration_is_found_with_what_it_starts(environment: Environment, home: Path) -> None:
    """As ``install`` wrote it; the ledger that it will keep is the one that was looked at."""
    data_directory = f"BUDGET_DATA_DIR={data(environment)}"
    run_program(environment, "install", "cursor", "--yes", "--env", data_directory, "--name", "money")

    found = doctor(environment)

    command = Path(sys.executable).parent / "cycles-budget-mcp"
    assert found.says("ok", "Cursor: 'money' in", str(home / ".cursor/mcp.json"), f"starts {command}")
    assert not found.says("warning", "No host")


def test_a_registration_for_one_project_is_found_from_within_it(
    environment: Environment, home: Path, tmp_path: Path
) -> None:
    """`claude mcp add` without a scope registers for the directory that it was typed in."""
    command = str(Path(sys.executable).parent / "cycles-budget-mcp")
    projects = {str(tmp_path): {"mcpServers": {"budget": {"command": command}}}, "/other": {}}
    (home / ".claude.json").write_text(json.dumps({"projects": projects}), encoding="utf-8")

    within, elsewhere = (doctor(environment, cwd=cwd) for cwd in (tmp_path, home))

    assert within.says("warning", "Claude Code: 'budget' in", "another ledger", "unless Claude Code is started with it")
    assert elsewhere.says("warning", "No host")


@pytest.mark.parametrize(
    ("entry", "level", "says"),
    [
        ({"command": "cycles-budget-mcp"}, "warning", "by its name alone"),
        ({"command": "/gone/cycles-budget-mcp"}, "problem", "is not there: run `cycles-budget-mcp install cursor`"),
        ({"command": sys.executable, "args": ["-m", "budget_server"], "disabled": True}, "warning", "is disabled"),
        (
            {"command": sys.executable, "args": ["-m", "budget_server"], "env": {"BUDGET_DATA_DIR": "/other"}},
            "warning",
            "keeps its ledger in /other",
        ),
        (
            {"command": sys.executable, "args": ["-m", "budget_server"], "env": {"BUDGET_DATA_DIR": "budget"}},
            "problem",
            "cannot start: BUDGET_DATA_DIR is wrong there: must be an absolute path",
        ),
        ({"command": sys.executable, "args": ["-m", "budget_server"]}, "warning", "it keeps another ledger"),
    ],
)
def test_a_registration_that_will_not_do_is_told(
    environment: Environment, home: Path, entry: dict[str, Any], level: str, says: str
) -> None:
    """Hosts say little about a server that does not start."""
    text = json.dumps({"mcpServers": {"budget": entry, "theirs": {"command": "/gone/theirs", "env": {"K": KEY}}}})
    (home / ".cursor/mcp.json").write_text(text, encoding="utf-8")

    found = doctor(environment)

    assert found.says(level, "Cursor: 'budget'", says)
    assert "theirs" not in found.output
    assert KEY not in found.output


def test_a_registration_whose_ledger_is_written_with_a_tilde_is_that_ledger(
    environment: Environment, home: Path
) -> None:
    """What a server would make of it."""
    environment["BUDGET_DATA_DIR"] = str(home / "budget")
    entry = {"command": sys.executable, "args": ["-m", "budget_server"], "env": {"BUDGET_DATA_DIR": "~/budget"}}
    (home / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"budget": entry}}), encoding="utf-8")

    assert doctor(environment).says("ok", "Cursor: 'budget'", "starts")


def test_a_token_alone_is_a_credential(environment: Environment) -> None:
    """Of a gateway."""
    environment["ANTHROPIC_AUTH_TOKEN"] = KEY

    found = doctor(environment)

    assert found.says("ok", "ANTHROPIC_AUTH_TOKEN is set; --online")
    assert KEY not in found.output


def test_a_way_that_cannot_be_taken_is_a_problem_without_asking(environment: Environment) -> None:
    """Never a traceback."""
    environment |= {"ANTHROPIC_API_KEY": KEY, "ALL_PROXY": "socks5://127.0.0.1:1"}

    for arguments in ((), ("--online",)):
        found = doctor(environment, *arguments)
        assert found.says("problem", "Nothing can reach the Claude API: ALL_PROXY names a SOCKS proxy")
        assert "Traceback" not in found.output


def test_a_hosts_file_that_cannot_be_read_is_a_warning(environment: Environment, home: Path) -> None:
    """VS Code's files may have comments: that is not for us to mend."""
    file = home / ".config/Code/User/mcp.json"
    file.parent.mkdir(parents=True)
    file.write_text("{ // mine\n}", encoding="utf-8")

    assert doctor(environment).says("warning", "VS Code", str(file), "not plain JSON")
