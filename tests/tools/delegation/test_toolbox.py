"""The toolbox: names, servers that are shared and come back, and what is known of a call that failed."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.subagent_tools.toolbox import Toolbox, ToolOutcome
from tools.delegation.harness import shed
from tools.delegation.remote import open_toolbox

pytestmark = pytest.mark.anyio


def listing(*tools: dict[str, Any]) -> dict[str, object]:
    """An entry that starts a shed which lists these tools."""
    return shed("--tools", json.dumps([{"inputSchema": {"type": "object"}, **tool} for tool in tools]))


def starts(directory: Path) -> int:
    """Count the files that sheds left when they started."""
    return len(list(directory.glob("started-*")))


async def call(box: Toolbox, name: str, **arguments: Any) -> ToolOutcome:
    """Call one tool."""
    with anyio.fail_after(20):
        return await (await box.open([name]))[name].call(arguments)


async def test_a_server_whose_name_has_the_separator_in_it_works(tmp_path: Path) -> None:
    """The longest server that fits is meant."""
    servers: dict[str, object] = {"a": listing({"name": "b__say"}), "a__b": listing({"name": "say"})}
    async with open_toolbox(tmp_path, servers) as box:
        assert list(await box.open(["a__b__say"])) == ["a__b__say"]
        with pytest.raises(InvalidArgumentError, match="'a__b' has no tool 'other'"):
            await box.open(["a__b__other"])
        with pytest.raises(InvalidArgumentError, match="'a__b__say' is the name of two tools"):
            await box.open(["a__*", "a__b__*"])


@pytest.mark.parametrize("name", ["", "shed", "shed__", "__say", "she__say", "shed_say"])
async def test_a_name_without_a_server_or_a_tool_is_refused(tmp_path: Path, name: str) -> None:
    """The caller is told how names are written."""
    async with open_toolbox(tmp_path, {"shed": shed()}) as box:
        with pytest.raises(InvalidArgumentError, match="write server__tool"):
            await box.open([name])


@pytest.mark.parametrize(
    ("servers", "says"),
    [
        ({"shed": listing({"name": "a.b"})}, "'shed__a.b' is not a name that the Claude API takes"),
        ({"shed": listing({"name": "x" * 128})}, "is not a name that the Claude API takes"),
    ],
)
async def test_what_the_messages_api_would_refuse_is_told_before_anything_is_sent(
    tmp_path: Path, servers: dict[str, object], says: str
) -> None:
    """It would refuse the whole conversation."""
    async with open_toolbox(tmp_path, servers) as box:
        with pytest.raises(InvalidArgumentError, match=says):
            await box.open(["shed__*"])


async def test_a_list_that_the_protocol_does_not_allow_is_one_sentence(tmp_path: Path) -> None:
    """It says what is wrong with which tool, without the tool itself."""
    async with open_toolbox(tmp_path, {"shed": listing({"name": "a", "inputSchema": {"type": "array"}})}) as box:
        with pytest.raises(
            ConfigurationError, match=r"'shed' does not list its tools: tools\.0\.inputSchema\.type: "
        ) as e:
            await box.open(["shed__a"])

    assert "\n" not in e.value.message


async def test_two_tools_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of them is meant, and what it costs, nobody could tell."""
    async with open_toolbox(tmp_path, {"shed": listing({"name": "a"}, {"name": "a"})}) as box:
        with pytest.raises(ConfigurationError, match="'shed' lists two tools of the name 'a'"):
            await box.open(["shed__a"])


async def test_a_schema_without_a_type_becomes_one_of_an_object(tmp_path: Path) -> None:
    """Messages API: input_schema.type must be object; MCP servers leave it out."""
    schema = {"properties": {"a": {"type": "integer"}}}
    async with open_toolbox(tmp_path, {"shed": listing({"name": "a", "inputSchema": schema})}) as box:
        tool = (await box.open(["shed__a"]))["shed__a"]

    assert tool.wire()["input_schema"] == {"type": "object", **schema}


async def test_servers_are_started_side_by_side(tmp_path: Path) -> None:
    """Each of these lists its tools only once the other has started, so one after another would never end."""
    servers: dict[str, object] = {"a": shed("--beside", str(tmp_path)), "b": shed("--beside", str(tmp_path))}
    async with open_toolbox(tmp_path, servers) as box:
        with anyio.fail_after(20):
            assert list(await box.open(["b__count", "a__count"])) == ["b__count", "a__count"]


async def test_of_several_servers_that_fail_the_first_that_was_named_is_told(tmp_path: Path) -> None:
    """Not whichever fails first: asking again says the same."""
    servers: dict[str, object] = {"slow": shed("--gone"), "quick": {"command": "${SHED_UNSET}"}}
    async with open_toolbox(tmp_path, servers) as box:
        with pytest.raises(ConfigurationError, match="'slow'"):
            await box.open(["slow__*", "quick__*"])


async def test_a_server_that_died_between_two_calls_is_started_for_the_next(tmp_path: Path) -> None:
    """Nothing was under way when it died, so nothing has to fail."""
    async with open_toolbox(tmp_path, {"shed": shed()}) as box:
        tools = await box.open(["shed__count", "shed__retire"])
        await tools["shed__count"].call({})
        await tools["shed__retire"].call({})
        died = box._servers["shed"]._connection
        assert died is not None
        with anyio.fail_after(20):
            await died._leaving.wait()

        assert (await tools["shed__count"].call({})).content[0]["text"] == "call 1"


async def test_a_call_that_the_servers_end_cut_off_is_an_error_and_not_repeated(tmp_path: Path) -> None:
    """It may have had its effect."""
    async with open_toolbox(tmp_path, {"shed": shed("--beside", str(tmp_path))}) as box:
        (tmp_path / "started-before").touch()
        crashed = await call(box, "shed__crash")

        assert (crashed.is_error, crashed.was_called) == (True, True)
        assert crashed.content[0]["text"].startswith("shed__crash failed: its server ended during the call")
        assert starts(tmp_path) == 2


async def test_a_call_that_cannot_be_made_says_that_nothing_was_run(tmp_path: Path) -> None:
    """A call that surely did not happen costs nothing."""
    async with open_toolbox(tmp_path, {"shed": shed("--once", str(tmp_path / "started"))}) as box:
        tools = await box.open(["shed__count", "shed__crash"])
        await tools["shed__crash"].call({})

        outcome = await tools["shed__count"].call({})

        assert (outcome.is_error, outcome.was_called) == (True, False)
        assert "shed__count was not called: MCP server 'shed'" in outcome.content[0]["text"]


@pytest.mark.parametrize("code", [-32603, -32000])
async def test_an_error_of_the_protocol_is_claudes_to_read_and_ends_nothing(tmp_path: Path, code: int) -> None:
    """-32000 is any server's to use, though the SDK says with it that a connection has closed."""
    async with open_toolbox(tmp_path, {"shed": shed()}) as box:
        first = await call(box, "shed__count")
        outcome = await call(box, "shed__object", code=code)

        assert (outcome.is_error, outcome.was_called) == (True, True)
        assert outcome.content[0]["text"] == "shed__object failed: The shed objects."
        assert [first.content[0]["text"], (await call(box, "shed__count")).content[0]["text"]] == ["call 1", "call 2"]


async def test_a_call_that_takes_too_long_is_cancelled_at_the_server_and_the_server_lives_on(tmp_path: Path) -> None:
    """MCP, cancellation; the entry's timeout is in milliseconds, as Claude Code has it."""
    async with open_toolbox(tmp_path, {"shed": {**shed(), "timeout": 1000}}) as box:
        outcome = await call(box, "shed__meet")

        assert (outcome.is_error, outcome.was_called) == (True, True)
        assert outcome.content[0]["text"] == "shed__meet failed: it gave no answer within 1 s."
        assert (await call(box, "shed__cancelled")).content[0]["text"] == "1 cancelled"


async def test_a_timeout_of_less_than_a_second_is_left_alone(tmp_path: Path) -> None:
    """As Claude Code does: other hosts count in seconds, and 30 ms would cut off every call."""
    async with open_toolbox(tmp_path, {"shed": {**shed(), "timeout": 1}}) as box:
        assert not (await call(box, "shed__ramble", length=3_000_000)).is_error


async def test_what_a_call_is_told_beside_its_arguments_reaches_a_process(tmp_path: Path) -> None:
    """MCP, _meta: a nested server learns who its parent is; without it nothing is told."""
    async with open_toolbox(tmp_path, {"shed": shed()}) as box:
        tool = (await box.open(["shed__meta"]))["shed__meta"]
        told = json.loads((await tool.call({}, meta={"parent": {"id": "d-1"}})).content[0]["text"])
        untold = json.loads((await tool.call({})).content[0]["text"])

    assert told["parent"] == {"id": "d-1"}
    assert "parent" not in untold


async def test_a_result_that_is_none_is_an_error_in_one_line(tmp_path: Path) -> None:
    """The validator's own text is for its programmer."""
    async with open_toolbox(tmp_path, {"shed": shed()}) as box:
        outcome = await call(box, "shed__say", content="no list")

    assert outcome.is_error
    assert outcome.content[0]["text"] == "shed__say failed: its server answered with something that is not a result."
