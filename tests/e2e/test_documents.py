"""What the documents say works when it is done as they say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from budget_server.config.settings import Settings
from budget_server.mcp_server.server import TOOLS
from budget_tools.subagent_tools.config import ServersFile
from hosting import Environment, call

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
EXAMPLE = ROOT / "claude_desktop_config.example.json"


def command(name: str) -> str:
    """Find an installed command beside this interpreter, as an activated environment would."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not installed beside {sys.executable}"
    return found


def test_the_demonstration_runs_and_adds_up(environment: Environment) -> None:
    """README, Two commands: without a key it is scripted, says so, and ends with 0 only if all adds up."""
    shown = subprocess.run(
        [command("cycles-budget-mcp"), "demo"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "scripted" in shown.stdout
    assert "budget_exhausted" in shown.stdout
    assert "Everything shown adds up" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.anyio
async def test_the_example_configuration_works_when_pasted(environment: Environment) -> None:
    """README, Claude Desktop: the command is found on PATH, and the budget is the one it says."""
    entry = json.loads(EXAMPLE.read_text(encoding="utf-8"))["mcpServers"]["budget"]
    own = {name: environment[name] for name in ("BUDGET_DATA_DIR", "PATH")}
    assert command(entry["command"])
    parameters = StdioServerParameters(
        command=command(entry["command"]), args=entry["args"], env={**own, **entry["env"]}
    )

    with anyio.fail_after(30):
        async with Client(parameters) as client:
            estimate = await call(client, "estimate_cost", prompt="Hello")

    assert estimate["remaining"]["usd"] == "5.00"


def test_the_readme_shows_the_example_configuration() -> None:
    """One block, in two places, must not drift apart."""
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]

    assert json.loads(EXAMPLE.read_text(encoding="utf-8")) in blocks


def test_every_tools_file_of_the_documents_is_one(tmp_path: Path) -> None:
    """Tools of a sub-agent: what the page shows can be pasted."""
    blocks = re.findall(r"```json\n(.*?)```", DOCS["subagent-tools.md"], re.DOTALL)
    path = tmp_path / "servers.json"

    assert len(blocks) >= 2
    for block in blocks:
        path.write_text(block, encoding="utf-8")
        assert ServersFile.read(path).entries


def test_the_documents_name_every_setting_and_every_tool() -> None:
    """A setting or a tool that no page names cannot be found."""
    for name in Settings.model_fields:
        assert re.search(rf"`{name}`", DOCS["settings.md"], re.IGNORECASE), name
    for tool in TOOLS:
        assert f"`{tool.name}`" in README, tool.name
        assert f"`{tool.name}`" in DOCS["tools.md"], tool.name


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    """It answers what it is and how to start; each other question has its page."""
    linked = set(re.findall(r"\(docs/([\w-]+\.md)\)", README))

    assert len(README.encode()) <= 7_000
    assert linked == set(DOCS) - {"index.md"}
    assert (ROOT / "docs" / "demo.svg").is_file()


def test_every_make_target_of_the_documents_exists() -> None:
    """README, Two commands; CONTRIBUTING: each `make` target it names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", "\n".join((README, contributing, *DOCS.values())), re.MULTILINE))

    assert {"demo", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_documents_name_the_version_of_the_host_that_was_seen() -> None:
    """Install: what `make hosts` installs is what the page says."""
    package = json.loads((ROOT / "tests/hosts/package.json").read_text(encoding="utf-8"))

    assert f"Claude Code {package['dependencies']['@anthropic-ai/claude-code']}," in DOCS["install.md"]
