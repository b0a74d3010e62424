"""The sub-agent's tools: real MCP servers, and what becomes of their answers and their faults."""

import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from budget_server.config.settings import Settings
from budget_server.demo.scripted_claude import ToolCall, Turn
from budget_server.services import Services
from budget_tools.core.errors import ConfigurationError
from budget_tools.subagent_tools import connections
from budget_tools.subagent_tools.results import MAX_RESULT_CHARACTERS
from tools.delegation.harness import PATIENCE_SECONDS, Bench, OpenBench, shed, tool_results

pytestmark = pytest.mark.anyio


def asks(*calls: ToolCall) -> list[Turn]:
    """A conversation that uses tools once and then ends."""
    return [Turn(text="I look.", tool_calls=calls), Turn(text="Done.")]


async def use(b: Bench, *calls: ToolCall) -> list[dict[str, Any]]:
    """Delegate a conversation with these calls and give what Claude read."""
    result = await b.delegate(tools=["shed__*"])
    assert (result["status"], result["text"]) == ("completed", "Done.")
    assert [call["name"] for call in result["turns"][0]["tool_calls"]] == [call.name for call in calls]
    results = list(tool_results(b.claude.message_requests[1]))
    is_ok = [not block.get("is_error", False) for block in results]
    assert [call["ok"] for call in result["turns"][0]["tool_calls"]] == is_ok
    asked = [block["id"] for block in b.claude.message_requests[1].body["messages"][1]["content"] if "input" in block]
    assert [block["tool_use_id"] for block in results] == asked
    return results


async def use_one(bench: OpenBench, name: str, **arguments: object) -> dict[str, Any]:
    """Use one tool of the shed and give what Claude read."""
    call = ToolCall(f"shed__{name}", arguments)
    (result,) = await use(await bench(asks(call)), call)
    return result


async def test_calls_of_one_turn_run_side_by_side_and_are_answered_in_order(bench: OpenBench) -> None:
    """Design, 7: in parallel where it asked for several; either call alone would never return."""
    calls = (ToolCall("shed__meet"), ToolCall("shed__count"), ToolCall("shed__meet"))
    b = await bench(asks(*calls))

    results = await use(b, *calls)

    assert [block["content"][0]["text"] for block in results] == ["met", "call 1", "met"]


async def test_real_servers_tools_are_offered_with_their_schema(bench: OpenBench) -> None:
    """Design, sub-agent tools: any MCP server; names become server__tool; nothing else is offered."""
    b = await bench(
        asks(ToolCall("workshop__stock", {"part": "bell-brass"}), ToolCall("workshop__stock", {"part": "unicycle"})),
        servers={
            "workshop": {"command": sys.executable, "args": ["-m", "budget_server.demo.workshop"], "disabled": False},
            "shed": shed(),
        },
    )

    result = await b.delegate(tools=["workshop__stock", "shed__picture", "shed__count", "shed__count"])

    offered = b.claude.message_requests[0].body["tools"]
    assert [tool["name"] for tool in offered] == ["workshop__stock", "shed__picture", "shed__count"]
    assert "part" in offered[0]["input_schema"]["properties"]
    assert offered[0]["description"]
    found, unknown = tool_results(b.claude.message_requests[1])
    assert '"quantity"' in found["content"][0]["text"]
    assert unknown["is_error"]
    assert "unicycle" in unknown["content"][0]["text"]
    assert result["status"] == "completed"


async def test_without_named_tools_none_is_offered_and_none_is_started(bench: OpenBench) -> None:
    """Design: none by default."""
    b = await bench([Turn(text="Done.")])

    await b.delegate()

    assert "tools" not in b.claude.message_requests[0].body


async def test_all_pages_of_a_servers_tools_are_offered(bench: OpenBench) -> None:
    """MCP, tools/list: a server may list its tools page by page."""
    b = await bench([Turn(text="Done.")])

    await b.delegate(tools=["shed__*"])

    offered = {tool["name"] for tool in b.claude.message_requests[0].body["tools"]}
    assert {"shed__meet", "shed__complain"} <= offered


@pytest.mark.parametrize("name", ["shed__crash", "elsewhere__count", "no-such-tool"])
async def test_a_tool_that_was_not_offered_is_not_run(bench: OpenBench, name: str) -> None:
    """Design: the caller names which tools may be used; a model's own idea gets an error to read."""
    b = await bench(asks(ToolCall(name)))

    result = await b.delegate(tools=["shed__count"])

    (block,) = tool_results(b.claude.message_requests[1])
    assert result["status"] == "completed"
    assert block["is_error"]
    assert name in block["content"][0]["text"]


async def test_a_tools_own_error_is_claudes_to_read(bench: OpenBench) -> None:
    """MCP, tools: an error result is information for the model, and the conversation goes on."""
    block = await use_one(bench, "complain")

    assert block["is_error"]
    assert block["content"] == [{"type": "text", "text": "The shed is closed on Mondays."}]


async def test_a_server_that_crashes_is_an_error_result_and_starts_again_for_the_next_call(bench: OpenBench) -> None:
    """A downstream crash must neither end the delegation nor disable the tool for as long as this process lives."""
    b = await bench(
        [
            Turn(tool_calls=(ToolCall("shed__count"),)),
            Turn(tool_calls=(ToolCall("shed__crash"),)),
            Turn(tool_calls=(ToolCall("shed__count"), ToolCall("shed__count"))),
            Turn(text="Done."),
        ]
    )

    result = await b.delegate(tools=["shed__*"])

    before, crashed, after = (tool_results(request) for request in b.claude.message_requests[1:])
    assert result["status"] == "completed"
    assert [block["content"][0]["text"] for block in (*before, *after)] == ["call 1", "call 1", "call 2"]
    assert crashed[0]["is_error"]
    assert "ended" in crashed[0]["content"][0]["text"]


async def test_a_server_that_does_not_start_again_is_an_error_result(bench: OpenBench, tmp_path: Path) -> None:
    """The delegation goes on without the tool."""
    b = await bench(
        [
            Turn(tool_calls=(ToolCall("shed__crash"),)),
            Turn(tool_calls=(ToolCall("shed__count"),)),
            Turn(text="Done."),
        ],
        servers={"shed": shed("--once", str(tmp_path / "started"))},
    )

    result = await b.delegate(tools=["shed__*"])

    (block,) = tool_results(b.claude.message_requests[2])
    assert result["status"] == "completed"
    assert block["is_error"]
    assert "does not start" in block["content"][0]["text"]


async def test_a_tool_that_does_not_answer_in_time_is_an_error_result(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tool must not hold a delegation for ever; alone in its turn, this one waits for a second call."""
    monkeypatch.setattr(connections, "CALL_SECONDS", 2)
    b = await bench(asks(ToolCall("shed__meet")))

    result = await b.delegate(tools=["shed__meet"])

    (block,) = tool_results(b.claude.message_requests[1])
    assert result["status"] == "completed"
    assert block["is_error"]
    assert "2 s" in block["content"][0]["text"]


async def test_a_picture_is_passed_on(bench: OpenBench) -> None:
    """Messages API: a tool result may hold images."""
    (image,) = (await use_one(bench, "picture"))["content"]

    assert (image["type"], image["source"]["type"], image["source"]["media_type"]) == ("image", "base64", "image/png")
    assert image["source"]["data"].startswith("iVBOR")


async def test_a_picture_of_a_kind_that_the_api_refuses_is_only_mentioned(bench: OpenBench) -> None:
    """Messages API: one bad image would refuse the whole conversation from then on."""
    (block,) = (await use_one(bench, "drawing"))["content"]

    assert block == {"type": "text", "text": "(image, image/svg+xml, 6 bytes: not a picture that can be passed on)"}


async def test_a_large_picture_is_bounded_as_a_picture_and_not_by_its_bytes(bench: OpenBench) -> None:
    """Anthropic, vision: an image has at most 4,784 tokens; bounding it by its bytes would end delegations too soon."""
    b = await bench(asks(ToolCall("shed__poster")), usd="0.10")

    result = await b.delegate(tools=["shed__poster"])

    bound = b.services.prices.worst_case("claude-sonnet-5-5", input_tokens=8_000, max_output_tokens=4_096)
    assert result["turns"][1]["reserved"]["amount"] <= bound


async def test_an_embedded_text_is_passed_on(bench: OpenBench) -> None:
    """MCP, tools: text may come as an embedded resource."""
    assert (await use_one(bench, "note"))["content"] == [{"type": "text", "text": "A note."}]


async def test_a_long_result_is_cut_and_says_so(bench: OpenBench) -> None:
    """Longer results would be paid for again on every later turn."""
    (block,) = (await use_one(bench, "ramble", length=MAX_RESULT_CHARACTERS + 1))["content"]

    assert block["text"].startswith("x" * MAX_RESULT_CHARACTERS + "\n(cut: 100001 ")


async def test_an_empty_result_is_said_in_words(bench: OpenBench) -> None:
    """Messages API: text blocks must not be empty."""
    assert (await use_one(bench, "silence"))["content"] == [{"type": "text", "text": "(no output)"}]


async def test_a_server_starts_once_for_all_delegations(bench: OpenBench) -> None:
    """Each server runs once per process."""
    b = await bench([*asks(ToolCall("shed__count")), *asks(ToolCall("shed__count"))])

    await b.delegate(tools=["shed__count"])
    await b.delegate(tools=["shed__count"])

    texts = [tool_results(b.claude.message_requests[number])[0]["content"][0]["text"] for number in (1, 3)]
    assert texts == ["call 1", "call 2"]


@pytest.mark.parametrize(
    ("servers", "says"),
    [
        ({"shed": shed("--gone")}, "does not start"),
        ({"shed": {"command": "/no/such/program"}}, "does not start"),
        ({"shed": {"url": "http://127.0.0.1:1/mcp"}}, "was refused"),
        ({"shed": {**shed(), "cwd": "/no/such/directory"}}, "does not start"),
        ({"shed": shed("--bare")}, "has no tool"),
    ],
    ids=["ends at once", "no such program", "nothing listens", "no such directory", "no tools"],
)
async def test_a_server_that_is_of_no_use_is_one_sentence_and_starts_nothing(
    bench: OpenBench, servers: dict[str, object], says: str
) -> None:
    """A person must mend it; nothing was spent, and asking again says the same."""
    b = await bench([], servers=servers)

    first, second = await b.refused(tools=["shed__*"]), await b.refused(tools=["shed__*"])

    assert says in first
    assert "'shed'" in first
    assert "TaskGroup" not in first
    assert first == second
    assert (b.claude.requests, await b.kept()) == ([], [])


async def test_a_server_that_never_answers_is_given_up_and_stopped(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must neither hang the call nor be taken for a server without tools the next time."""
    monkeypatch.setattr(connections, "START_SECONDS", 0.5)
    b = await bench([], servers={"mute": shed("--mute")})

    first, second = await b.refused(tools=["mute__*"]), await b.refused(tools=["mute__*"])

    assert "did not start within 0.5 s" in first
    assert first == second
    with anyio.fail_after(PATIENCE_SECONDS):
        while b.services.toolbox._servers["mute"]._living:
            await anyio.lowlevel.checkpoint()


async def test_a_call_that_is_cancelled_while_a_server_starts_does_not_spoil_the_server(bench: OpenBench) -> None:
    """Half a start is none: the next delegation must find the tools."""
    b = await bench([Turn(text="Done.")])
    server = b.services.toolbox._servers["shed"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: b.delegate(tools=["shed__count"]))
        while not server._living:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    result = await b.delegate(tools=["shed__count"])

    assert result["status"] == "completed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "UTF-8"),
        (b"not json", "not an mcpServers file"),
        (b"[]", "not an mcpServers file"),
        (b"{}", "mcpServers"),
        (b'{"mcpServers": {"a": {"command": 7}}}', "mcpServers.a.command"),
        (b'{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}', "mcpServers.a.env.A"),
    ],
    ids=["absent", "no text", "no JSON", "no object", "no servers", "wrong command", "wrong environment"],
)
def test_a_wrong_tools_file_is_told_at_the_start(tmp_path: Path, text: bytes | None, says: str) -> None:
    """Style, settings: a wrong value fails at start, with the variable's name, and without its contents."""
    path = tmp_path / "servers.json"
    if text is not None:
        path.write_bytes(text)

    with pytest.raises(ConfigurationError, match="BUDGET_SUBAGENT_SERVERS") as error:
        Services(Settings(budget_data_dir=tmp_path / "data", budget_subagent_servers=path))

    assert says in error.value.message
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
