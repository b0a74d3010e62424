"""Claude Code finds this server where ``install``, the README's own commands and the example file have put it."""

import json
import re
import shlex
import sys
from pathlib import Path

import anyio
import pytest

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from hosting import ALLOCATED, Environment, ledger_balance, run_program
from hosts.claude_code import SERVER, ClaudeCode, Model, calls
from networking import new_token, serving

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGES = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("install.md", "network.md"))
COMMANDS = [
    " ".join((in_text or in_block).split())
    for in_text, in_block in re.findall(r"`(claude mcp add [^`]+)`|^(claude mcp add .+)$", PAGES, re.MULTILINE)
]
URL = re.compile(r"http://127\.0\.0\.1:8765/\w+")
PLACE_OF_SECRET = "SECRET"  # noqa: S105 - the word itself

PROMPT = "Spend a little."
TASK = "Say hello."
CONNECTED = "✔ Connected"
PENDING = "⏸ Pending approval"
NONE = "No MCP servers configured"


@pytest.fixture
def installed(environment: Environment) -> Environment:
    """Where the command ``cycles-budget-mcp`` is found, and where it keeps its ledger."""
    here = Path(sys.executable).parent
    return {"BUDGET_DATA_DIR": environment["BUDGET_DATA_DIR"], "PATH": f"{here}:{environment['PATH']}"}


@pytest.mark.parametrize("has_directory", [False, True], ids=["at-home", "elsewhere"])
@pytest.mark.parametrize(
    ("where", "status"), [([], CONNECTED), (["--project"], PENDING)], ids=["for-the-user", "for-the-project"]
)
async def test_it_finds_and_uses_what_install_wrote_until_undo_takes_it_out(
    program: Path, tmp_path: Path, installed: Environment, where: list[str], status: str, *, has_directory: bool
) -> None:
    """README, Into your host; and the server has the environment that the host was started in, the key included."""
    model = Model(calls("reserve_budget", usd="0.25"), calls("delegate_to_claude", task=TASK))
    elsewhere = {"CLAUDE_CONFIG_DIR": str(tmp_path / "settings")} if has_directory else {}
    async with ScriptedClaude(conversations={PROMPT: model, TASK: [Turn(text="Hello.")]}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude, {**installed, **elsewhere})

        def install(*arguments: str) -> None:
            done = run_program(host.environment, "install", "claude-code", "--yes", *arguments, cwd=host.project)
            assert done.returncode == 0, done.stdout + done.stderr

        before = host.command("mcp", "list")
        with anyio.fail_after(120):
            async with host.running(PROMPT):  # its first start makes the directory by which it is known to be there
                await claude.wait_for_requests(1)
        install("--budget-usd", "1", *where)
        listed = host.command("mcp", "list")
        with anyio.fail_after(120):
            run = await host.run(PROMPT)
        install("--undo", *where)
        after = host.command("mcp", "list")

    assert NONE in before
    assert re.search(rf"^{SERVER}: \S*/cycles-budget-mcp +- {status}", listed, re.MULTILINE), listed
    assert (run.exit_code, run.server_status) == (0, "connected")
    assert (model.read[0]["decision"], model.read[1]["text"]) == ("ALLOW", "Hello.")
    assert ledger_balance(installed)["allocated"] == ALLOCATED
    assert NONE in after


async def test_every_command_of_the_readme_registers_a_server_that_answers(
    program: Path, tmp_path: Path, installed: Environment
) -> None:
    """README: each is typed as it stands, but for the port, which is a free one, and the token's secret."""
    secret = new_token(installed)
    async with ScriptedClaude() as claude:
        host = ClaudeCode(program, tmp_path / "host", claude, installed)
        with serving(installed, "streamable-http") as served:
            for command in COMMANDS:
                there = URL.sub(served.url, command).replace(PLACE_OF_SECRET, secret)
                host.command(*shlex.split(there)[1:])
                listed = host.command("mcp", "list")
                host.command("mcp", "remove", SERVER)
                has_access = "http" not in command or PLACE_OF_SECRET in command
                assert (CONNECTED in listed) == has_access, (command, listed)

    assert [URL.search(command) is not None for command in COMMANDS] == [False, True, True]


async def test_the_example_file_is_one_that_it_takes(program: Path, tmp_path: Path, installed: Environment) -> None:
    """claude_desktop_config.example.json: the shape is the same in every host."""
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8"))
    model = Model(calls("estimate_cost", input_tokens=1))
    async with ScriptedClaude(conversations={PROMPT: model}) as claude:
        host = ClaudeCode(program, tmp_path / "host", claude, installed)
        with anyio.fail_after(120):
            run = await host.run(PROMPT, example["mcpServers"][SERVER])

    assert (run.exit_code, run.server_status) == (0, "connected")
    assert model.read[0]["remaining"]["usd"] == "5.00"
