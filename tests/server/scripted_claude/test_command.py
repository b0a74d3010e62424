"""The scripted Claude as a command, and the scripts that it can play."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from anthropic.types import ToolParam
from typer.testing import CliRunner, Result

from budget_server.demo.scripted_claude import PROFILES, ScriptedClaude
from budget_server.demo.scripted_claude.__main__ import DEFAULT_PORT, SCRIPTED_KEY, app
from budget_server.demo.scripted_claude.scripts import SCRIPTS, ScriptName, sample_input
from server.scripted_claude.asking import HELLO, KEY, REQUEST, WEATHER, choosing, sdk, tool_result

ROOT = Path(__file__).parents[3]
SECONDS = 60
COMMAND = [sys.executable, "-m", "budget_server.demo.scripted_claude"]


def run(*arguments: str) -> Result:
    """Run the command to its end."""
    return CliRunner().invoke(app, arguments)


def test_its_profiles_can_be_listed() -> None:
    """One a line, with what it does and where that was reported."""
    done = run("--list-profiles")

    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(PROFILES)
    assert all(profile.does in line for line, profile in zip(lines, PROFILES.values(), strict=True))
    assert "BerriAI/litellm#34692" in done.stdout


def test_a_profile_that_does_not_exist_is_one_sentence() -> None:
    """With the one that was meant, and where to look."""
    done = run("--profile", "litelm-like")

    assert (done.exit_code, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert "no profile litelm-like" in sentence
    assert "Did you mean litellm-like?" in sentence
    assert "--list-profiles" in sentence


def test_its_help_says_how_to_use_it() -> None:
    """With the variable that points at it."""
    shown = run("--help").stdout

    for word in ("ANTHROPIC_BASE_URL", "--profile", "--list-profiles", "first-tool"):
        assert word in shown


def test_it_plays_a_profile_until_it_is_ended() -> None:
    """What it prints can be pasted into a shell."""
    with subprocess.Popen(
        [*COMMAND, "answer", "--port", "0", "--profile", "vllm-like"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said, line = process.stderr.readline(), process.stderr.readline()
        found = re.search(r"export ANTHROPIC_BASE_URL=(\S+) ANTHROPIC_API_KEY=\S+", line)
        assert found, line
        headers = {"x-api-key": KEY, "anthropic-version": "2026-10-21"}
        response = httpx2.post(f"{found[1]}/v1/messages", headers=headers, json={**REQUEST, "stream": True})
        process.send_signal(signal.SIGTERM)

    assert PROFILES["vllm-like"].does in said
    assert response.text.endswith("data: [DONE]\n\n")
    assert process.returncode == 0


# -- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("name", [ScriptName.FIRST_TOOL, ScriptName.TOOLS])
async def test_a_script_calls_the_first_tool_once_and_answers_with_what_it_returned(name: ScriptName) -> None:
    """So that any tool server can be tried without a key; as often as something new is asked."""
    tools = [WEATHER, ToolParam(name="other", input_schema=WEATHER["input_schema"])]
    async with ScriptedClaude(SCRIPTS[name]) as endpoint, sdk(endpoint) as client:
        for _ in range(2):
            first: Any = await client.messages.create(**REQUEST, tools=tools)
            call = first.content[1]
            messages = [*HELLO, first.to_param(), tool_result(call.id)]
            second: Any = await client.messages.create(**{**REQUEST, "messages": messages}, tools=tools)

            assert (first.stop_reason, call.name) == ("tool_use", "weather")
            assert second.stop_reason == "end_turn"
            assert second.content[0].text == "(Scripted, not a model.) The tool answered: Sunny"


@pytest.mark.anyio
async def test_without_a_tool_it_may_use_it_answers() -> None:
    """Nothing offered, nothing but tools of the API's own, or tools that may not be chosen."""
    async with ScriptedClaude(SCRIPTS[ScriptName.FIRST_TOOL]) as endpoint, sdk(endpoint) as client:
        searching = {"tools": [{"type": "web_search_20260209", "name": "web_search"}]}
        for change in ({}, searching, choosing({"type": "none"})):
            message: Any = await client.messages.create(**REQUEST, **change)

            assert (message.stop_reason, len(message.content)) == ("end_turn", 1)
            assert message.content[0].text.startswith("(Scripted, not a model.)")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"optional": {"type": "string"}}},
        {
            "type": "object",
            "required": [
                "text",
                "short",
                "long",
                "count",
                "share",
                "above",
                "flag",
                "none",
                "list",
                "unit",
                "fixed",
                "any",
            ],
            "properties": {
                "text": {"type": "string"},
                "short": {"type": "string", "maxLength": 3},
                "long": {"type": "string", "minLength": 40},
                "count": {"type": "integer", "minimum": 5},
                "share": {"type": "number"},
                "above": {"type": "integer", "exclusiveMinimum": 9},
                "flag": {"type": "boolean"},
                "none": {"type": "null"},
                "list": {"type": "array", "minItems": 2, "items": {"type": "integer"}},
                "unit": {"enum": ["C", "F"]},
                "fixed": {"const": 7},
                "any": True,
            },
        },
        {
            "type": "object",
            "required": ["where", "maybe", "deep"],
            "properties": {
                "where": {"$ref": "#/$defs/place"},
                "maybe": {"anyOf": [{"type": ["integer", "null"]}, {"type": "string"}]},
                "deep": {"type": "object", "required": ["a"], "properties": {"a": {"type": "array"}}},
            },
            "$defs": {"place": {"required": ["city"], "properties": {"city": {"type": "string", "default": "Ulm"}}}},
        },
        {"type": "object", "required": ["self"], "properties": {"self": {"$ref": "#/properties/self"}}},
    ],
)
def test_a_tool_is_called_with_what_it_requires(schema: dict[str, Any]) -> None:
    """Made up from its schema; one that refers to itself without an end gets a few levels."""
    made = sample_input(schema)

    assert json.loads(json.dumps(made)) == made
    if "self" not in schema.get("required", ()):
        jsonschema.validate(made, schema)


# -- its page ---------------------------------------------------------------------------------------------------------


def test_its_page_has_every_profile_as_it_is() -> None:
    """docs/scripted-claude.md, "How do I try a gateway?"."""
    page = (ROOT / "docs" / "scripted-claude.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| `([\w-]+-[\w-]+)` \| (.+) \| (.+) \|$", page.partition("| profile |")[2], re.MULTILINE)
    assert rows == [(name, each.does, ", ".join(each.sources)) for name, each in PROFILES.items()]
    for name in ScriptName:
        assert f"| `{name}`" in page


def test_its_page_starts_it_as_it_can_be_started() -> None:
    """Each command of the page is one that the command takes, and prints what the page says."""
    page = (ROOT / "docs" / "scripted-claude.md").read_text(encoding="utf-8")

    blocks = re.findall(r"```sh\n(.*?)\n```", page, re.DOTALL)
    starts = [block for block in blocks if block.startswith("python -m ")]
    (exported,) = (block for block in blocks if block not in starts)
    assert exported == f"export ANTHROPIC_BASE_URL=http://127.0.0.1:{DEFAULT_PORT} ANTHROPIC_API_KEY={SCRIPTED_KEY}"
    assert len(starts) == 3
    for start in starts:
        assert start.startswith("python -m budget_server.demo.scripted_claude")
        done = run(*start.split()[3:], "--help")
        assert done.exit_code == 0, done.stderr
