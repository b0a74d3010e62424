"""The mcpServers file: what hosts write in it, what is refused and when, variables, and prices."""

import json
from pathlib import Path
from typing import Any

import pytest

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.subagent_tools.toolbox import Toolbox, ToolPrice
from tools.delegation.harness import servers_file, shed
from tools.delegation.remote import open_toolbox

pytestmark = pytest.mark.anyio


def refused(directory: Path, text: str) -> str:
    """Load a file that must be refused, and give the one sentence."""
    path = directory / "servers.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="BUDGET_SUBAGENT_SERVERS") as error:
        Toolbox.load(path)
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"command": "x", "url": "http://h/"}, "mcpServers.far: it has both command and url"),
        ({"args": ["x"]}, "mcpServers.far: it has neither command nor url"),
        ({"command": "", "url": ""}, "mcpServers.far: it has neither command nor url"),
        ({"url": "http://h/", "type": "carrier-pigeon"}, "mcpServers.far.type: the transports are stdio, sse and http"),
        ({"url": "http://h/", "transport": 7}, "mcpServers.far.transport: the transports are"),
        ({"url": "http://h/", "type": "stdio"}, "mcpServers.far: its type is stdio, which needs a command"),
        ({"command": "x", "type": "sse"}, "mcpServers.far: its type is sse, which needs a url"),
        ({"url": "http://h/", "headers": {"A": 1}}, "mcpServers.far.headers.A"),
        ({"command": "x", "timeout": 0}, "mcpServers.far.timeout"),
        ({"command": "x", "timeout": 1.5}, "mcpServers.far.timeout"),
        ({"command": "x", "timeout": "1000"}, "mcpServers.far.timeout"),
    ],
)
def test_an_entry_that_is_not_one_server_is_told_at_the_start(
    tmp_path: Path, entry: dict[str, object], says: str
) -> None:
    """A person looks at the log of the start; the sentence names the entry."""
    assert says in refused(tmp_path, json.dumps({"mcpServers": {"near": shed(), "far": entry}}))


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ('{"tools": {"say": {}}}', "mcpServers.far.budget.tools.say: give either usd or risk_points"),
        ('{"tools": {"say": {"usd": "1", "risk_points": 1}}}', "budget.tools.say: give either usd or risk_points"),
        ('{"tools": {"say": {"usd": "-1"}}}', "budget.tools.say.usd"),
        ('{"tools": {"say": {"usd": "a lot"}}}', "budget.tools.say.usd"),
        ('{"tools": {"say": {"usd": 0.000000001}}}', "budget.tools.say.usd: is finer than one microcent"),
        ('{"tools": {"say": {"usd": true}}}', "budget.tools.say.usd"),
        ('{"tools": {"say": {"usd": NaN}}}', "NaN is not JSON"),
        ('{"tools": {"say": {"risk_points": 0}}}', "budget.tools.say.risk_points"),
        ('{"tools": {"say": {"risk_points": 1.0}}}', "budget.tools.say.risk_points"),
        ('{"tools": {"say": {"risk_points": "5"}}}', "budget.tools.say.risk_points"),
        ('{"tools": {"say": {"risk_points": true}}}', "budget.tools.say.risk_points"),
        ('{"tools": {"say": {"usd": "1", "per": "day"}}}', "budget.tools.say.per"),
        ('{"tool": {"say": {"usd": "1"}}}', "budget.tool:"),
        ('{"tools": {"say": {"usd": "1"}, "say": {"usd": "2"}}}', "the key 'say' is given twice"),
    ],
)
def test_a_price_that_is_not_one_is_told_at_the_start(tmp_path: Path, budget: str, says: str) -> None:
    """A price that is overlooked would make the tool free of charge."""
    assert says in refused(tmp_path, f'{{"mcpServers": {{"far": {{"command": "x", "budget": {budget}}}}}}}')


async def test_prices_are_exact_and_each_tool_has_its_own(tmp_path: Path) -> None:
    """Money: no float touches an amount; 17 digits and more would not survive one."""
    budget = """{"tools": {
        "count": {"usd": "0.01"}, "note": {"usd": 12345678901.12345678}, "crash": {"risk_points": 5},
        "say": {"usd": 0}, "*": {"usd": 1e-3}
    }}"""
    path = tmp_path / "servers.json"
    entry = json.dumps(shed())[:-1]
    path.write_text(f'{{"mcpServers": {{"shed": {entry}, "budget": {budget}}}, "free": {entry}}}}}}}')
    box = Toolbox.load(path)
    try:
        tools = await box.open(["shed__*", "free__count"])
    finally:
        await box.aclose()

    assert tools["shed__count"].price == ToolPrice("USD_MICROCENTS", 1_000_000)
    assert tools["shed__note"].price == ToolPrice("USD_MICROCENTS", 1_234_567_890_112_345_678)
    assert tools["shed__crash"].price == ToolPrice("RISK_POINTS", 5)
    assert tools["shed__say"].price is None
    assert tools["shed__picture"].price == ToolPrice("USD_MICROCENTS", 100_000)
    assert tools["free__count"].price is None


async def test_a_price_for_a_tool_that_is_not_there_is_told_when_the_server_is_opened(tmp_path: Path) -> None:
    """A mistyped name would make the tool that was meant free of charge."""
    servers: dict[str, object] = {"shed": {**shed(), "budget": {"tools": {"cuont": {"usd": "0.01"}}}}}
    async with open_toolbox(tmp_path, servers) as box:
        with pytest.raises(
            ConfigurationError, match=r"'cuont', but MCP server 'shed' has no such tool: it has .*count"
        ):
            await box.open(["shed__say"])


def with_variables(**entry: object) -> dict[str, object]:
    """An entry that starts the shed and has variables in it."""
    started: dict[str, Any] = shed()
    return {**started, **entry, "args": [*started["args"], *entry.get("args", [])]}  # type: ignore[misc]


async def environment_of(directory: Path, entry: dict[str, object], *names: str, **options: Any) -> Any:
    """Start the shed from an entry and give what it sees."""
    async with open_toolbox(directory, {"shed": entry}, **options) as box:
        tool = (await box.open(["shed__environment"]))["shed__environment"]
        return json.loads((await tool.call({"names": names})).content[0]["text"])


async def test_variables_are_put_in_as_claude_code_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claude Code, .mcp.json: ${VAR} and ${VAR:-default}, which is for what is not set."""
    for name, value in {"SHED_A": "alpha", "SHED_EMPTY": "", "SHED_PYTHON": str(shed()["command"])}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SHED_UNSET", raising=False)
    entry = with_variables(
        command="${SHED_PYTHON}",
        args=["${SHED_A}-${SHED_A}", "${SHED_UNSET:-by: default}", "${SHED_EMPTY:-full}", "$SHED_A", "${SHED_UNSET:-}"],
        env={"ONE": "<${SHED_A}>"},
    )

    environment, arguments, _ = await environment_of(tmp_path, entry, "ONE")

    assert arguments == ["alpha-alpha", "by: default", "", "$SHED_A", ""]
    assert environment == {"ONE": "<alpha>"}


async def test_a_variable_that_is_not_set_is_told_when_its_server_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the server and the variable, and no value; other servers do not need it."""
    monkeypatch.setenv("SHED_A", "s3cr3t")
    monkeypatch.delenv("SHED_UNSET", raising=False)
    entries: dict[str, object] = {
        "env": with_variables(env={"A": "${SHED_A}", "B": "${SHED_UNSET}"}),
        "headers": {"url": "http://127.0.0.1:1/", "headers": {"A": "${SHED_A} ${SHED_UNSET}"}},
        "url": {"url": "http://127.0.0.1:1/${SHED_A}/${SHED_UNSET}"},
        "shed": shed(),
    }
    async with open_toolbox(tmp_path, entries) as box:
        for name in ("env", "headers", "url"):
            with pytest.raises(
                ConfigurationError, match=f"'{name}' needs the environment variable SHED_UNSET"
            ) as error:
                await box.open([f"{name}__*"])
            assert "s3cr3t" not in error.value.message
        assert await box.open(["shed__count"])


async def test_a_command_that_does_not_start_is_shown_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variable holds is not for everyone to see."""
    monkeypatch.setenv("SHED_A", "/s3cr3t")
    async with open_toolbox(tmp_path, {"shed": {"command": "${SHED_A}/run", "cwd": str(tmp_path)}}) as box:
        with pytest.raises(ConfigurationError) as error:
            await box.open(["shed__*"])

    assert error.value.message == "MCP server 'shed' (${SHED_A}/run) does not start: No such file or directory."


async def test_the_entrys_own_environment_wins_over_what_all_children_get(tmp_path: Path) -> None:
    """A nested server of ours is told how deep it is, unless its entry says otherwise; cwd is where it runs."""
    entry = with_variables(env={"DEPTH": "own"}, cwd=str(tmp_path))

    environment, _, directory = await environment_of(
        tmp_path, entry, "DEPTH", "PARENT", child_environment={"DEPTH": "1", "PARENT": "2"}
    )

    assert environment == {"DEPTH": "own", "PARENT": "2"}
    assert Path(directory).samefile(tmp_path)  # noqa: ASYNC240 - nothing else runs here


async def test_a_disabled_server_is_as_though_absent(tmp_path: Path) -> None:
    """Hosts' mcpServers, disabled: whatever else the entry says; whoever names it is told."""
    servers: dict[str, object] = {"shed": shed(), "shed__off": {"disabled": True, "command": 7, "url": "http://h/"}}
    async with open_toolbox(tmp_path, servers) as box:
        assert await box.open(["shed__count"])
        with pytest.raises(InvalidArgumentError, match="the servers are shed "):
            await box.open(["other__count"])
    async with open_toolbox(tmp_path, {"off": {**shed(), "disabled": True}}) as box:
        with pytest.raises(InvalidArgumentError, match=r"'off__count' is of server 'off', disabled in .*servers.json"):
            await box.open(["off__count"])


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    """Its editors put a byte order mark before the text."""
    path = servers_file(tmp_path, {"shed": shed()})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert Toolbox.load(path)._servers.keys() == {"shed"}
