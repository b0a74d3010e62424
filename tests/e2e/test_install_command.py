"""``cycles-budget-mcp install``: a host's file changes only as it was shown, and can be had back as it was."""

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters
from typer.testing import CliRunner

from budget_server.cli.app import app
from budget_server.hosts.registry import HOSTS, find_host, user_file
from hosting import Environment, call, complaint_of, run_program

KEY = "sk-ant-not-a-real-one"
OTHERS_KEY = "ghp-somebody-elses"
FILES = {
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "claude-code": ".claude.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
}
OTHERS = {
    "files": {
        "type": "stdio",
        "command": "npx",
        "args": ["-y", "files", "--token", OTHERS_KEY],
        "env": {"FILES_TOKEN": OTHERS_KEY},
    },
    "web": {"headers": {"Authorization": OTHERS_KEY}, "url": f"https://web.example/mcp?key={OTHERS_KEY}"},
}


@pytest.fixture
def home(tmp_path: Path, environment: Environment) -> Path:
    """The home of somebody who has every host; what the caller's own environment says of homes is gone."""
    home = tmp_path / "home"
    for file in FILES.values():
        (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / ".claude").mkdir()
    environment["HOME"] = str(home)
    return home


@pytest.fixture
def desktop(home: Path) -> Path:
    """Claude Desktop's file, with other servers in it, laid out by hand."""
    file = home / FILES["claude-desktop"]
    file.write_text(_handwritten("mcpServers"), encoding="utf-8")
    return file


def _handwritten(container: str) -> str:
    others = json.dumps(OTHERS, indent="\t").replace("\n", "\n\t")
    return f'{{\n\t"globalShortcut": "",\n\t"{container}": {others},\n\t"scale": 1.50e0\n}}'


def install(environment: Environment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``cycles-budget-mcp install …``."""
    return run_program(environment, "install", *arguments)


def written(file: Path, container: str = "mcpServers", name: str = "budget") -> dict[str, Any]:
    """Read our entry."""
    entry: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))[container][name]
    return entry


def left_beside(file: Path) -> list[Path]:
    """Give what is in the file's directory beside it."""
    return sorted(path for path in file.parent.iterdir() if path.is_file() and path != file)


@pytest.mark.anyio
@pytest.mark.parametrize("key", FILES)
async def test_a_host_can_start_what_was_registered_with_it_and_undo_gives_its_file_back(
    environment: Environment, home: Path, key: str
) -> None:
    """README, Install: the whole way, for each host, beside other servers; the command needs no PATH."""
    container = find_host(key).container
    file = home / FILES[key]
    original = _handwritten(container)
    file.write_text(original, encoding="utf-8")
    file.chmod(0o640)

    done = install(environment, key, "--yes", "--budget-usd", "5", "--env", "BUDGET_DATA_DIR=" + str(home / "data"))
    entry = written(file, container)
    parameters = StdioServerParameters(command=entry["command"], args=entry["args"], env={"PATH": "", **entry["env"]})
    with anyio.fail_after(30):
        async with Client(parameters) as client:
            estimate = await call(client, "estimate_cost", prompt="Hello")
    undone = install(environment, key, "--undo", "--yes")

    assert (done.returncode, undone.returncode) == (0, 0), done.stderr + undone.stderr
    assert find_host(key).afterwards in done.stdout
    assert Path(entry["command"]).is_absolute()
    assert entry.get("type") == ("stdio" if key in ("claude-code", "vscode") else None)
    assert estimate["remaining"]["usd"] == "5.00"
    assert file.read_text(encoding="utf-8") == original
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_change_is_shown_to_the_letter_and_written_only_when_it_is_wanted(
    environment: Environment, desktop: Path
) -> None:
    """A transcript: shown without a terminal, written with --yes, nothing to change afterwards, and taken out again."""
    original = desktop.read_bytes()
    del environment["BUDGET_DATA_DIR"], environment["BUDGET_USD"]

    shown = install(environment, "claude-desktop", "--budget-usd", "5")
    after_showing = desktop.read_bytes()
    done = install(environment, "claude-desktop", "--budget-usd", "5", "--yes")
    again = install(environment, "claude-desktop", "--yes")
    undone = install(environment, "claude-desktop", "--undo", "--yes")
    twice = install(environment, "claude-desktop", "--undo", "--yes")

    command = Path(sys.executable).parent / "cycles-budget-mcp"
    first, second = left_beside(desktop)
    entry = [
        '"budget": {',
        f'\t"command": "{command}",',
        '\t"args": [],',
        '\t"env": {',
        '\t\t"BUDGET_USD": "5"',
        "\t}",
    ]
    above = [' \t\t\t\t"Authorization": "(hidden)"', " \t\t\t},", ' \t\t\t"url": "(hidden)"']
    below = [" \t\t}", " \t},", ' \t"scale": 1.50e0']
    names = [f"--- {desktop}", f"+++ {desktop} (new)"]
    ours = ["\t\t},", *(f"\t\t{line}" for line in entry)]
    change = [*names, "@@ -19,6 +19,13 @@", *above, *(f"+{line}" for line in ours), *below]
    change_back = [*names, "@@ -19,13 +19,6 @@", *above, *(f"-{line}" for line in ours), *below]
    no_key = (
        "The server will have no ANTHROPIC_API_KEY, so it cannot delegate: "
        "--with-api-key writes the one of this environment; all else works without."
    )
    assert shown.stdout.splitlines() == [
        *change, no_key, "Nothing was written: there is nobody to ask. Add --yes to write it."
    ]  # fmt: skip
    assert (shown.returncode, after_showing) == (1, original)
    assert done.stdout.splitlines() == [
        *change,
        no_key,
        f"{desktop} is written; what it was is in {first.name} beside it.",
        "Quit Claude Desktop fully and start it again.",
    ]
    assert again.stdout.splitlines() == [f"There is nothing to change in {desktop}."]
    assert undone.stdout.splitlines() == [
        *change_back, f"{desktop} is written; what it was is in {second.name} beside it."
    ]  # fmt: skip
    assert twice.stdout.splitlines() == [f"There is nothing of ours to take out of {desktop}."]
    assert [ended.returncode for ended in (done, again, undone, twice)] == [0, 0, 0, 0]
    assert {ended.stderr for ended in (shown, done, again, undone, twice)} == {""}
    assert desktop.read_bytes() == original
    assert first.read_bytes() == original
    assert "budget" in json.loads(second.read_text(encoding="utf-8"))["mcpServers"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in (first, second)} == {stat.S_IMODE(desktop.stat().st_mode)}


def test_a_person_is_asked_at_a_terminal(environment: Environment, desktop: Path) -> None:
    """What is not wanted is not written."""
    original = desktop.read_bytes()

    refused = _at_a_terminal(environment, "n\n", "install", "claude-desktop")
    after_refusing = desktop.read_bytes()
    agreed = _at_a_terminal(environment, "y\n", "install", "claude-desktop")

    assert (refused, after_refusing) == (1, original)
    assert agreed == 0
    assert "budget" in desktop.read_text(encoding="utf-8")


def _at_a_terminal(environment: Environment, typed: str, *arguments: str) -> int:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        return subprocess.run(
            [sys.executable, "-m", "budget_server", *arguments],
            env=environment,
            stdin=theirs,
            capture_output=True,
            timeout=30,
            check=False,
        ).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_no_secret_is_shown_and_a_key_is_written_only_when_that_is_asked_for(
    environment: Environment, desktop: Path
) -> None:
    """Neither ours nor anybody else's: what a terminal shows may be pasted into a bug report."""
    environment["ANTHROPIC_API_KEY"] = KEY

    silent = install(environment, "claude-desktop", "--yes")
    without = written(desktop)
    asked = install(environment, "claude-desktop", "--yes", "--with-api-key", "-e", "CYCLES_API_KEY=" + KEY)
    changed = install(environment, "claude-desktop", "--yes", "-e", "ANTHROPIC_API_KEY=" + KEY + "2")
    printed = install(environment, "--print", "--with-api-key")
    undone = install(environment, "claude-desktop", "--undo", "--yes")

    assert "ANTHROPIC_API_KEY" not in without["env"]
    assert "--with-api-key" in silent.stdout
    assert "CYCLES_API_KEY and ANTHROPIC_API_KEY will stand in that file, in plain text" in asked.stdout
    assert '"ANTHROPIC_API_KEY": "(hidden, new)"' in changed.stdout
    assert '"CYCLES_API_KEY": "(hidden)"' in changed.stdout
    assert "That copy still holds" in undone.stdout
    for ended in (silent, asked, changed, printed, undone):
        for secret in (KEY, OTHERS_KEY):
            assert secret not in ended.stdout + ended.stderr


def test_what_a_person_added_to_our_entry_stays(environment: Environment, desktop: Path) -> None:
    """A second run, after an update or from another installation, mends the command and nothing else."""
    found = json.loads(desktop.read_text(encoding="utf-8"))
    by_hand = {
        "command": "/gone/bin/cycles-budget-mcp",
        "args": ["serve"],
        "env": {"ANTHROPIC_API_KEY": KEY},
        "disabled": True,
    }
    found["mcpServers"]["budget"] = by_hand
    desktop.write_text(json.dumps(found, indent=2), encoding="utf-8")

    install(environment, "claude-desktop", "--yes", "--env", "BUDGET_PERIOD=day")

    command = str(Path(sys.executable).parent / "cycles-budget-mcp")
    assert written(desktop) == {
        "command": command,
        "args": [],
        "env": {"ANTHROPIC_API_KEY": KEY, "BUDGET_PERIOD": "day"},
        "disabled": True,
    }


def test_settings_of_this_shell_that_the_host_will_not_have_are_named(environment: Environment, desktop: Path) -> None:
    """A ledger elsewhere than where it was looked at would surprise: BUDGET_DATA_DIR is set here."""
    named = install(environment, "claude-desktop")
    given = install(environment, "claude-desktop", "--env", "BUDGET_DATA_DIR=/data", "--budget-usd", "1")

    assert "Set here, but not for the host" in named.stdout
    assert "BUDGET_DATA_DIR" in named.stdout
    assert "Set here" not in given.stdout
    assert desktop.is_file()


def test_a_host_that_shares_its_environment_is_said_to(environment: Environment, home: Path) -> None:
    """Claude Code starts its servers with the environment of its own terminal, the key included."""
    (home / FILES["claude-code"]).write_text("{}", encoding="utf-8")

    without = install(environment, "claude-code")
    emptied = install(environment, "claude-code", "--env", "ANTHROPIC_API_KEY=")

    assert "will have the ANTHROPIC_API_KEY that Claude Code is started with" in without.stdout
    assert "count only where Claude Code is started with them: BUDGET_USD, BUDGET_DATA_DIR" in without.stdout
    assert "will have no ANTHROPIC_API_KEY" in emptied.stdout


def test_anothers_server_of_our_name_is_left_alone(environment: Environment, desktop: Path) -> None:
    """Only what is ours is changed or taken out."""
    text = '{"mcpServers": {"budget": {"command": "/bin/household", "args": []}}}'
    desktop.write_text(text, encoding="utf-8")

    for arguments in (["--yes"], ["--undo", "--yes"]):
        assert "is another server" in complaint_of(environment, "install", "claude-desktop", *arguments)
    named = install(environment, "claude-desktop", "--yes", "--name", "money")

    assert named.returncode == 0
    assert set(json.loads(desktop.read_text(encoding="utf-8"))["mcpServers"]) == {"budget", "money"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{\n  // mine\n  "servers": {}\n}', "is not plain JSON (line 2"),
        (b'{"servers": {},}', "is not plain JSON"),
        (b'{"servers": []}', "not an object"),
        (b'{"servers": {"budget": {}, "budget": {}}}', "twice"),
        (b"[]", "does not hold a JSON object"),
        (b'{"a": "\xff"}', "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_edited_surely_is_left_as_it_is(
    environment: Environment, home: Path, content: bytes, says: str
) -> None:
    """VS Code takes comments in its files; JSON has none, so the person is given the entry to write."""
    file = home / FILES["vscode"]
    file.write_bytes(content)

    line = complaint_of(environment, "install", "vscode", "--yes")

    assert says in line
    assert "left as it is" in line
    assert file.read_bytes() == content
    assert left_beside(file) == []


def test_a_link_stays_a_link_and_its_target_is_replaced(environment: Environment, home: Path, tmp_path: Path) -> None:
    """People keep such files in a repository of their own, and link to them; a byte order mark stays as well."""
    target = tmp_path / "dotfiles" / "desktop.json"
    target.parent.mkdir()
    original = b"\xef\xbb\xbf" + b'{"mcpServers": {}}\r\n'
    target.write_bytes(original)
    link = home / FILES["claude-desktop"]
    link.symlink_to(target)

    install(environment, "claude-desktop", "--yes")
    is_link, changed = link.is_symlink(), target.read_bytes()
    install(environment, "claude-desktop", "--undo", "--yes")

    assert is_link
    assert changed.startswith(b"\xef\xbb\xbf{")
    assert b"budget" in changed
    assert left_beside(link) == []
    assert target.read_bytes() == original


def test_a_host_that_is_not_there_is_said_and_made_only_if_that_is_asked_for(
    environment: Environment, home: Path
) -> None:
    """A file in a place that nobody reads helps nobody."""
    directory = home / ".codeium"
    (directory / "windsurf").rmdir()
    directory.rmdir()

    line = complaint_of(environment, "install", "windsurf", "--yes")
    shown = install(environment, "windsurf", "--create")
    is_there = directory.exists()
    made = install(environment, "windsurf", "--create", "--yes")

    assert "Windsurf is not installed" in line
    assert (shown.returncode, is_there, made.returncode) == (1, False, 0)
    file = home / FILES["windsurf"]
    assert written(file)["args"] == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_claude_code_that_never_ran_is_not_installed(environment: Environment, home: Path) -> None:
    """Its file stands in the home itself, whose being there says nothing."""
    (home / ".claude").rmdir()

    assert "Claude Code is not installed" in complaint_of(environment, "install", "claude-code")


def test_claude_code_that_is_told_another_directory_keeps_its_file_there(
    environment: Environment, home: Path, tmp_path: Path
) -> None:
    """CLAUDE_CONFIG_DIR: what is in the home says nothing then, nor is the file there before the first start."""
    (home / ".claude").rmdir()
    environment["CLAUDE_CONFIG_DIR"] = str(tmp_path / "elsewhere")

    line = complaint_of(environment, "install", "claude-code", "--yes")
    (tmp_path / "elsewhere").mkdir()
    done = install(environment, "claude-code", "--yes")

    assert "Claude Code is not installed" in line
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "elsewhere/.claude.json")["type"] == "stdio"
    assert not (home / ".claude.json").exists()


def test_a_file_may_be_named_or_be_a_projects(environment: Environment, home: Path, tmp_path: Path) -> None:
    """Hosts of another profile, and servers for one project alone."""
    file = tmp_path / "profile" / "mcp.json"
    file.parent.mkdir()

    named = install(environment, "vscode", "--config", str(file), "--yes")
    of_a_project = run_program(environment, "install", "claude-code", "--project", "--yes", cwd=file.parent)

    assert (named.returncode, of_a_project.returncode) == (0, 0)
    assert written(file, "servers")["type"] == "stdio"
    assert written(file.parent / ".mcp.json")["type"] == "stdio"
    assert not (home / FILES["vscode"]).exists()


def test_the_entry_can_be_printed_for_any_other_host(environment: Environment, home: Path) -> None:
    """What a host needs is the same everywhere; only the key that it stands under differs."""
    before = sorted(home.rglob("*"))

    other = json.loads(install(environment, "--print", "--budget-usd", "0.50").stdout)
    vscode = json.loads(install(environment, "vscode", "--print", "--name", "money").stdout)

    assert other["mcpServers"]["budget"]["env"] == {"BUDGET_USD": "0.50"}
    assert vscode["servers"]["money"]["type"] == "stdio"
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "is no host that is known"),
        (("emacs",), "claude-desktop, claude-code, cursor, vscode, windsurf"),
        (("cursor", "--budget-usd", "five"), "--budget-usd must be US dollars"),
        (("cursor", "--env", "BUDGET_USD"), "KEY=VALUE"),
        (("cursor", "--env", "=5"), "KEY=VALUE"),
        (("cursor", "--name", "my budget"), "--name must be"),
        (("cursor", "--with-api-key"), "ANTHROPIC_API_KEY is not set here"),
        (("claude-desktop", "--project"), "no file for a single project"),
        (("cursor", "--project", "--config", "mcp.json"), "either --config or --project"),
        (("cursor", "--config", "/proc/nothing/mcp.json"), "There is no /proc/nothing"),
        (("cursor", "--config", "/"), "is not a file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    environment: Environment, home: Path, arguments: tuple[str, ...], says: str
) -> None:
    """Bad input: what is wrong, where, what to do."""
    assert says in complaint_of(environment, "install", *arguments, "--yes")
    assert not (home / FILES["cursor"]).exists()


def test_a_crash_before_the_file_has_its_new_content_leaves_the_old_one(
    environment: Environment, desktop: Path
) -> None:
    """Killed in the very step that puts the new file in the old one's place, the copy being made."""
    original = desktop.read_bytes()
    program = """
import os, sys
replace = os.replace
def killed(written, path):
    if str(path).endswith(".json"):
        os.kill(os.getpid(), 9)
    replace(written, path)
os.replace = killed
from budget_server.__main__ import main
main()
"""

    ended = subprocess.run(
        [sys.executable, "-c", program, "install", "claude-desktop", "--yes"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    after_the_crash = desktop.read_bytes()
    copies = list(desktop.parent.glob("*.before-budget-*"))
    again = install(environment, "claude-desktop", "--yes")

    assert ended.returncode == -9
    assert after_the_crash == original
    assert [copy.read_bytes() for copy in copies] == [original]
    assert again.returncode == 0
    assert "budget" in desktop.read_text(encoding="utf-8")


def test_a_file_that_changed_while_the_question_stood_is_left_alone(environment: Environment, desktop: Path) -> None:
    """Hosts write their own files as they run; what they wrote must not be lost."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "budget_server", "install", "claude-desktop"],
        env=environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        while not os.read(process.stdout.fileno(), 65_536).rstrip().endswith(b"[y/N]:"):
            pass
        desktop.write_text('{"theirs": 1}', encoding="utf-8")
        os.write(ours, b"y\n")
        _, complaint = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)

    assert process.returncode == 2
    assert b"changed meanwhile" in complaint
    assert desktop.read_text(encoding="utf-8") == '{"theirs": 1}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(), JSON, max_size=3),
    st.none() | st.dictionaries(st.text(), JSON, max_size=2),
    st.sampled_from([None, 2, "\t"]),
)
def test_whatever_object_stands_there_undo_gives_it_back(
    environment: Environment, home: Path, outer: dict[str, Any], servers: dict[str, Any] | None, indent: Any
) -> None:
    """Install, then undo: not a byte differs, with and without an object of servers, empty or full."""
    file = home / FILES["cursor"]
    outer.pop("mcpServers", None)
    (servers or {}).pop("budget", None)
    content = json.dumps(outer if servers is None else {**outer, "mcpServers": servers}, indent=indent).encode()
    file.write_bytes(content)

    runner = CliRunner()
    done = runner.invoke(app, ["install", "cursor", "--yes"], env=environment)
    undone = runner.invoke(app, ["install", "cursor", "--undo", "--yes"], env=environment)

    assert (done.exit_code, undone.exit_code) == (0, 0), done.output + undone.output
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("platform", "key", "expected"),
    [
        ("darwin", "claude-desktop", "home/Library/Application Support/Claude/claude_desktop_config.json"),
        ("darwin", "vscode", "home/Library/Application Support/Code/User/mcp.json"),
        ("darwin", "claude-code", "home/.claude.json"),
        ("linux", "claude-desktop", "xdg/Claude/claude_desktop_config.json"),
        ("linux", "vscode", "xdg/Code/User/mcp.json"),
        ("linux", "cursor", "home/.cursor/mcp.json"),
        ("linux", "windsurf", "home/.codeium/windsurf/mcp_config.json"),
        ("win32", "claude-desktop", "roaming/Claude/claude_desktop_config.json"),
        ("win32", "vscode", "roaming/Code/User/mcp.json"),
        ("win32", "windsurf", "home/.codeium/windsurf/mcp_config.json"),
    ],
)
def test_every_platform_has_its_own_places(tmp_path: Path, platform: str, key: str, expected: str) -> None:
    """The hosts' own documents; a host is installed where its directory is."""
    environment = {
        name: str(tmp_path / folder)
        for name, folder in (("XDG_CONFIG_HOME", "xdg"), ("APPDATA", "roaming"), ("LOCALAPPDATA", "local"))
    }
    absent = user_file(HOSTS[key], environment, tmp_path / "home", platform)
    (tmp_path / expected).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "home/.claude").mkdir(parents=True)
    present = user_file(HOSTS[key], environment, tmp_path / "home", platform)

    assert absent == (tmp_path / expected, False)
    assert present == (tmp_path / expected, True)


def test_a_packaged_claude_desktop_reads_a_file_of_its_own(tmp_path: Path) -> None:
    """Windows packages do not see the older place, even where that still has a file: they read from LocalCache."""
    older = tmp_path / "roaming/Claude"
    packaged = tmp_path / "local/Packages/Claude_x1/LocalCache/Roaming/Claude"
    for directory in (older, packaged):
        directory.mkdir(parents=True)
    (older / "claude_desktop_config.json").write_text("{}", encoding="utf-8")
    environment = {"APPDATA": str(tmp_path / "roaming"), "LOCALAPPDATA": str(tmp_path / "local")}

    found, _ = user_file(HOSTS["claude-desktop"], environment, tmp_path, "win32")

    assert found == packaged / "claude_desktop_config.json"
