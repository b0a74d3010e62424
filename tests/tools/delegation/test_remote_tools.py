"""A sub-agent's tools over SSE and streamable HTTP: real servers on loopback, and each way in which they fail."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from budget_tools.core.errors import ConfigurationError
from budget_tools.subagent_tools import connections
from budget_tools.subagent_tools.toolbox import SubagentTool
from tools.delegation.harness import happens, shed
from tools.delegation.remote import OldServer, Port, Warehouse, open_toolbox, refusal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("_plain_loopback")]

SECRET = "Bearer s3cr3t"  # noqa: S105 - no secret of anyone

both = pytest.mark.parametrize("kind", ["sse", "http"])


@pytest.fixture
def _plain_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's proxies away from the loopback interface."""
    monkeypatch.setenv("NO_PROXY", "*")


def entry(port: Port, kind: str, **more: object) -> dict[str, object]:
    """An entry of ``mcpServers`` that leads to a port."""
    return {"type": kind, "url": f"{port.url}/{'sse' if kind == 'sse' else 'mcp'}", **more}


async def text(tool: SubagentTool, **arguments: object) -> str:
    """Call a tool that must answer one text."""
    with anyio.fail_after(20):
        outcome = await tool.call(arguments)
    (block,) = outcome.content
    assert not outcome.is_error, block
    return str(block["text"])


@both
async def test_a_server_over_http_is_connected_once_and_sent_its_headers(tmp_path: Path, kind: str) -> None:
    """Hosts' mcpServers: url and headers; one connection for all delegations."""
    warehouse = Warehouse()
    async with Port(warehouse.app(kind)) as port:
        servers: dict[str, object] = {"far": entry(port, kind, headers={"Authorization": SECRET})}
        async with open_toolbox(tmp_path, servers) as box:
            first = (await box.open(["far__*"]))["far__count"]
            connected = len(warehouse.headers)
            second = (await box.open(["far__count"]))["far__count"]

            assert len(warehouse.headers) == connected
            assert [await text(first), await text(second)] == ["call 1", "call 2"]

    assert {headers["authorization"] for headers in warehouse.headers} == {SECRET}


@pytest.mark.parametrize(
    "declared",
    [{}, {"type": "http"}, {"type": "streamable-http"}, {"transport": "streamableHttp"}, {"type": "streamable_http"}],
)
async def test_every_spelling_of_streamable_http_is_understood(tmp_path: Path, declared: dict[str, str]) -> None:
    """Hosts do not agree on one; a url without a type is streamable HTTP."""
    async with Port(Warehouse().app("http")) as port:
        servers: dict[str, object] = {"far": {"url": f"{port.url}/mcp", **declared}}
        async with open_toolbox(tmp_path, servers) as box:
            assert await text((await box.open(["far__count"]))["far__count"]) == "call 1"


@both
async def test_what_a_call_is_told_beside_its_arguments_reaches_the_server(tmp_path: Path, kind: str) -> None:
    """MCP, _meta: a nested server learns who its parent is."""
    async with Port(Warehouse().app(kind)) as port, open_toolbox(tmp_path, {"far": entry(port, kind)}) as box:
        tool = (await box.open(["far__meta"]))["far__meta"]

        outcome = await tool.call({}, meta={"parent": "delegation-1"})

        assert outcome.content[0]["text"] == "parent delegation-1"


@both
async def test_a_call_that_takes_longer_than_the_entrys_timeout_is_cancelled_at_the_server(
    tmp_path: Path, kind: str
) -> None:
    """MCP, cancellation: the server must not work on, and spend, for a caller that has gone."""
    warehouse = Warehouse()
    async with (
        Port(warehouse.app(kind)) as port,
        open_toolbox(tmp_path, {"far": entry(port, kind, timeout=1000)}) as box,
    ):
        tools = await box.open(["far__*"])

        outcome = await tools["far__wait"].call({})

        assert outcome.is_error
        assert outcome.was_called
        assert "1 s" in outcome.content[0]["text"]
        await happens(warehouse.cancelled)
        assert await text(tools["far__count"]) == "call 2"


@both
async def test_a_server_that_goes_away_during_a_call_is_an_error_and_reached_again_for_the_next(
    tmp_path: Path, kind: str
) -> None:
    """The call that was cut off may have had its effect, so it is not repeated."""
    warehouse = Warehouse()
    outcomes: list[Any] = []
    async with Port(warehouse.app(kind)) as port:
        url_entry = entry(port, kind)
        async with open_toolbox(tmp_path, {"far": url_entry}) as box:
            tools = await box.open(["far__*"])

            async def wait() -> None:
                outcomes.append(await tools["far__wait"].call({}))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await happens(warehouse.waiting)
                await port.__aexit__()
                with anyio.fail_after(20):
                    while not outcomes:
                        await anyio.lowlevel.checkpoint()
            unreachable = await tools["far__count"].call({})
            back = Warehouse()
            port._app = back.app(kind)
            await port.__aenter__()

            assert await text(tools["far__count"]) == "call 1"
    (cut_off,) = outcomes
    assert (cut_off.is_error, cut_off.was_called) == (True, True)
    assert (unreachable.is_error, unreachable.was_called) == (True, False)
    assert "refused" in unreachable.content[0]["text"]
    assert (warehouse.calls, back.calls) == (1, 1)


async def test_a_session_that_the_server_has_forgotten_is_begun_anew_without_a_failed_call(tmp_path: Path) -> None:
    """MCP, session management: 404 within a session says so before anything is run, and asks for a new one."""
    old = OldServer()
    async with Port(old) as port, open_toolbox(tmp_path, {"old": entry(port, "http")}) as box:
        tool = (await box.open(["old__count"]))["old__count"]
        first = await text(tool)
        old.forget()

        assert [first, await text(tool)] == ["call 1", "call 2"]
        assert (old.sessions, old.calls) == (2, 2)
    assert old.ended[-1] == "session-2"


def status(code: int) -> ASGIApp:
    """An application that answers everything with a status, and with what is common beside it."""
    return Response('{"error": "invalid_token"}', status_code=code, media_type="application/json")


def elsewhere(port: Port) -> ASGIApp:
    """An application that redirects everything to another port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await RedirectResponse(f"{port.url}{scope['path']}?token=t0k3n", status_code=307)(scope, receive, send)

    return app


@both
@pytest.mark.parametrize(
    ("app", "says"),
    [
        (lambda: status(401), "it answers 401 Unauthorized: check the headers"),
        (lambda: refusal(401, "No."), "it answers 401 Unauthorized: check the headers"),
        (lambda: status(403), "it answers 403 Forbidden: check the headers"),
        (lambda: status(404), "it answers 404 Not Found: check its url, and its type"),
        (lambda: status(405), "it answers 405 Method Not Allowed: check its url, and its type"),
        (lambda: status(500), "it answers 500 Internal Server Error"),
        (lambda: PlainTextResponse("Welcome!"), "text/plain"),
    ],
    ids=["401", "401 in JSON-RPC", "403", "404", "405", "500", "no MCP"],
)
async def test_a_server_that_refuses_is_one_sentence_without_its_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, app: Callable[[], ASGIApp], says: str
) -> None:
    """A person must mend it, and sees what is wrong, but nothing that is secret."""
    caplog.set_level(logging.WARNING)
    async with Port(app()) as port:
        url = f"{port.url}/t0k3n?key=t0k3n"
        servers: dict[str, object] = {"far": {"type": kind, "url": url, "headers": {"Authorization": SECRET}}}
        async with open_toolbox(tmp_path, servers) as box:
            with pytest.raises(ConfigurationError) as error:
                await box.open(["far__*"])
        assert f"MCP server 'far' ({port.url}) cannot be used: " in error.value.message
    assert says in error.value.message
    assert "\n" not in error.value.message
    for told in (error.value.message, caplog.text):
        assert "s3cr3t" not in told
        assert "t0k3n" not in told


@both
async def test_a_redirect_to_another_server_is_not_followed(tmp_path: Path, kind: str) -> None:
    """Headers are for the server that was configured."""
    thief = Warehouse()
    async with Port(thief.app(kind)) as other, Port(elsewhere(other)) as port:
        servers: dict[str, object] = {"far": entry(port, kind, headers={"Authorization": SECRET})}
        async with open_toolbox(tmp_path, servers) as box:
            with pytest.raises(ConfigurationError, match="redirects to") as error:
                await box.open(["far__*"])

    assert other.url in error.value.message
    assert "t0k3n" not in error.value.message
    assert thief.headers == []


@both
async def test_a_redirect_within_the_server_is_followed(tmp_path: Path, kind: str) -> None:
    """Frameworks redirect to the path with a slash at its end, or without."""
    inner = Warehouse().app(kind)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/moved"):
            await RedirectResponse(f"/{'sse' if kind == 'sse' else 'mcp'}", status_code=307)(scope, receive, send)
        else:
            await inner(scope, receive, send)

    async with (
        inner.router.lifespan_context(inner),
        Port(app) as port,
        open_toolbox(tmp_path, {"far": {"type": kind, "url": f"{port.url}/moved"}}) as box,
    ):
        assert await text((await box.open(["far__count"]))["far__count"]) == "call 1"


@both
async def test_a_server_over_http_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It must not hang the call that needs it."""
    monkeypatch.setattr(connections, "START_SECONDS", 0.3)

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with Port(app) as port, open_toolbox(tmp_path, {"far": entry(port, kind)}) as box:
        with pytest.raises(ConfigurationError, match=r"'far' did not answer within 0\.3 s"):
            await box.open(["far__*"])


@both
async def test_trouble_with_certificates_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """A certificate that nobody vouches for, and a server that does not speak TLS at all."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    await anyio.run_process(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split()
    )
    app = Warehouse().app(kind)
    async with Port(app, ssl_keyfile=key, ssl_certfile=certificate) as untrusted, Port(status(500)) as plain:
        servers: dict[str, object] = {
            "untrusted": entry(untrusted, kind),
            "plain": {"type": kind, "url": plain.url.replace("http:", "https:")},
        }
        async with open_toolbox(tmp_path, servers) as box:
            with pytest.raises(ConfigurationError, match="its certificate is not trusted"):
                await box.open(["untrusted__*"])
            with pytest.raises(ConfigurationError, match="TLS failed"):
                await box.open(["plain__*"])


@both
async def test_a_server_that_refuses_later_calls_is_an_error_result_that_says_so(tmp_path: Path, kind: str) -> None:
    """A token that has run out: Claude reads it, and the delegation goes on."""
    warehouse = Warehouse()
    inner = warehouse.app(kind)
    has_run_out = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (status(401) if has_run_out else inner)(scope, receive, send)

    async with (
        inner.router.lifespan_context(inner),
        Port(app) as port,
        open_toolbox(tmp_path, {"far": entry(port, kind)}) as box,
    ):
        tool = (await box.open(["far__count"]))["far__count"]
        has_run_out = True

        outcome = await tool.call({})

        assert outcome.is_error
        assert "401 Unauthorized" in outcome.content[0]["text"]
        has_run_out = False
        assert await text(tool) == "call 1"


async def test_calls_side_by_side_over_http_fail_each_for_itself(tmp_path: Path) -> None:
    """One request that a server refuses must not cut off the others over the same connection."""
    warehouse = Warehouse()
    inner = warehouse.app("http")
    outcomes: list[Any] = []
    is_refusing = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (status(503) if is_refusing else inner)(scope, receive, send)

    async with (
        inner.router.lifespan_context(inner),
        Port(app) as port,
        open_toolbox(tmp_path, {"far": entry(port, "http", timeout=1500)}) as box,
    ):
        tools = await box.open(["far__*"])

        async def wait() -> None:
            outcomes.append(await tools["far__wait"].call({}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await happens(warehouse.waiting)
            is_refusing = True
            refused = await tools["far__count"].call({})

    assert "503 Service Unavailable" in refused.content[0]["text"]
    assert "no answer within 1.5 s" in outcomes[0].content[0]["text"]


async def test_a_large_result_over_http_is_taken_whole(tmp_path: Path) -> None:
    """Several pictures are megabytes of base64 in one event."""
    async with Port(OldServer()) as port, open_toolbox(tmp_path, {"old": entry(port, "http")}) as box:
        tool = (await box.open(["old__ramble"]))["old__ramble"]

        assert "2000000 characters in all" in await text(tool, length=2_000_000)


async def test_an_error_of_the_protocol_under_a_status_is_what_claude_reads(tmp_path: Path) -> None:
    """Streamable HTTP: a server may put a JSON-RPC error under 400; it says more than the status."""
    async with Port(OldServer()) as port, open_toolbox(tmp_path, {"old": entry(port, "http")}) as box:
        outcome = await (await box.open(["old__object"]))["old__object"].call({})

    assert outcome.content[0]["text"] == "old__object failed: The old server objects."


async def test_a_server_without_a_stream_of_its_own_is_used_and_left_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Streamable HTTP: a server may answer GET and DELETE with 405, and nobody has to mend that."""
    caplog.set_level(logging.WARNING)
    old = OldServer()
    async with Port(old) as port, open_toolbox(tmp_path, {"old": entry(port, "http")}) as box:
        assert await text((await box.open(["old__count"]))["old__count"]) == "call 1"

    assert old.ended == ["session-1"]
    assert caplog.text == ""


async def test_servers_that_work_stay_usable_beside_one_that_does_not(tmp_path: Path) -> None:
    """One broken entry must not cost the others their start."""
    warehouse = Warehouse()
    async with Port(warehouse.app("http")) as port:
        servers: dict[str, object] = {
            "bad": {"url": "http://127.0.0.1:1/mcp"},
            "far": entry(port, "http"),
            "near": shed(),
        }
        async with open_toolbox(tmp_path, servers) as box:
            with pytest.raises(ConfigurationError, match="'bad'"):
                await box.open(["near__count", "bad__*", "far__count"])
            connected = len(warehouse.headers)
            tools = await box.open(["near__count", "far__count"])

            assert connected == len(warehouse.headers) > 0
            assert [await text(tool) for tool in tools.values()] == ["call 1", "call 1"]


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"url": "ftp://t0k3n/mcp"}, "not an http or https address"),
        ({"url": "t0k3n"}, "not an http or https address"),
        ({"url": "http://h/", "headers": {"Authorization": "t0k3n\n"}}, "'Authorization' that HTTP does not take"),
        ({"url": "http://h/", "headers": {"Authorization": "t0k3n €"}}, "'Authorization' that HTTP does not take"),
        ({"url": "http://h/", "headers": {"t0k3n: x": ""}}, "header whose name is not one of HTTP"),
        ({"url": "http://no-such-host.invalid/mcp?t0k3n"}, "its host name cannot be resolved"),
    ],
)
async def test_an_address_or_header_that_cannot_be_used_is_told_without_showing_it(
    tmp_path: Path, server: dict[str, object], says: str
) -> None:
    """What came from a variable may be secret, and often ends in a line break."""
    async with open_toolbox(tmp_path, {"far": server}) as box:
        with pytest.raises(ConfigurationError) as error:
            await box.open(["far__*"])

    assert says in error.value.message
    assert "'far'" in error.value.message
    assert "t0k3n" not in error.value.message


@both
async def test_a_proxy_that_cannot_be_used_is_one_sentence_and_an_exception_from_it_works(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of the machine hold for the servers of tools, too."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    app = Warehouse().app(kind)
    async with Port(app) as port, open_toolbox(tmp_path, {"far": entry(port, kind)}) as box:
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(ConfigurationError, match="ALL_PROXY names a SOCKS proxy"):
            await box.open(["far__*"])
        monkeypatch.setenv("NO_PROXY", "[::1],127.0.0.1")
        assert await box.open(["far__count"])
