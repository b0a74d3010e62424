"""Hosts that reach the server over SSE and streamable HTTP, and what becomes of the money when they leave."""

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client, StdioServerParameters

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from budget_server.mcp_server.server import TOOLS
from budget_server.transports.http import MAX_BODY_BYTES
from hosting import ALLOCATED, Environment, call, complaint_of, in_time, ledger_balance
from networking import lost_host, serving

pytestmark = pytest.mark.anyio

MODERN, OLDER = "2026-07-28", "2025-11-25"
PATIENCE_SECONDS = 2.0
"""Whoever ends a process waits so long before killing it."""

TRANSPORTS = ["sse", "streamable-http"]
CONNECTIONS = [("streamable-http", "auto"), ("streamable-http", "legacy"), ("sse", "legacy")]
IDLE_SESSIONS = 200
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": OLDER, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def with_claude(environment: Environment, endpoint: ScriptedClaude) -> Environment:
    """Settings of a server that delegates to the scripted stand-in."""
    return {**environment, "ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}


@pytest.mark.parametrize(
    ("transport", "mode", "version"),
    [
        ("stdio", "auto", MODERN),
        ("stdio", "legacy", OLDER),
        ("streamable-http", "auto", MODERN),
        ("streamable-http", "legacy", OLDER),
        ("sse", "legacy", OLDER),
    ],
)
async def test_every_tool_works_on_every_transport_and_protocol_generation(
    environment: Environment, transport: str, mode: str, version: str
) -> None:
    """MCP, transports: what a host can do must not depend on how it connects."""
    called: set[str] = set()
    told: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - the SDK's names
        told.append(message)

    async def use(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
        called.add(tool)
        return await call(client, tool, **arguments)

    async with ScriptedClaude([Turn(text="Done.")]) as endpoint, AsyncExitStack() as stack:
        environment = with_claude(environment, endpoint)
        host: AbstractAsyncContextManager[Client]
        if transport == "stdio":
            parameters = StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)
            host = Client(parameters, mode=mode)
        else:
            host = stack.enter_context(serving(environment, transport)).host(mode)
        with anyio.fail_after(60):
            async with host as client:
                spoken = client.protocol_version
                listed = {tool.name for tool in (await client.list_tools()).tools}
                estimate = await use(client, "estimate_cost", input_tokens=1)
                held = await use(client, "reserve_budget", usd="0.25")
                settled = await use(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.10")
                called.add("delegate_to_claude")
                answered = await client.call_tool("delegate_to_claude", {"task": "Do it."}, progress_callback=note)
                delegated = dict(answered.structured_content or {})
                status = await use(client, "delegation_status", delegation_id=delegated["delegation_id"])
                found = await use(client, "list_delegations")
                other = await use(client, "reserve_budget", usd="0.05")
                await use(client, "extend_reservation", reservation_id=other["reservation_id"], seconds=60)
                listed_there = await use(client, "list_reservations", status="ACTIVE")
                await use(client, "release_budget", reservation_id=other["reservation_id"])
                await use(client, "record_usage", usd="0.01")
                checked = await use(client, "check_budget")
                refused = await client.call_tool("reserve_budget", {"usd": "nonsense"})

    assert spoken == version
    assert called == listed == {tool.name for tool in TOOLS}
    assert estimate["remaining"]["amount"] == ALLOCATED
    assert settled["charged"]["amount"] == 10_000_000
    assert (delegated["status"], delegated["text"], status["text"]) == ("completed", "Done.", "Done.")
    assert [each["delegation_id"] for each in found["delegations"]] == [delegated["delegation_id"]]
    assert [each["reservation_id"] for each in listed_there["reservations"]] == [other["reservation_id"]]
    assert any(message and "turn 1" in message for message in told)
    assert refused.is_error
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, 11_000_000 + delegated["spent"]["amount"])
    assert checked["balances"][0]["spent"]["amount"] == balance["spent"]


@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_two_hosts_share_one_ledger(environment: Environment, transport: str, mode: str) -> None:
    """The SDK enters its lifespan once per SSE client: what one holds must still be held for the other."""
    with serving(environment, transport) as served, anyio.fail_after(60):
        async with served.host(mode) as one, served.host(mode) as two:
            held = await call(one, "reserve_budget", usd="0.90")
            denied = await call(two, "reserve_budget", usd="0.90")
            await call(two, "commit_usage", reservation_id=held["reservation_id"], usd="0.90")
            left = await call(one, "estimate_cost", input_tokens=1)

    assert (held["decision"], denied["decision"], denied["reason_code"]) == ("ALLOW", "DENY", "BUDGET_EXCEEDED")
    assert left["remaining"]["usd"] == "0.10"


@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_a_host_that_is_killed_stops_its_delegation_and_pays_for_the_turn_in_flight(
    environment: Environment, transport: str, mode: str
) -> None:
    """BUDGET_ON_DISCONNECT=cancel: nobody would read the rest, so no more is spent; as on stdio."""
    async with ScriptedClaude([Turn(text="never heard", hold=anyio.Event())]) as endpoint:
        environment = with_claude(environment, endpoint)
        with serving(environment, transport) as served, anyio.fail_after(60):
            with lost_host(served, mode) as host:
                (request,) = await endpoint.wait_for_requests(1)
                bound = (await anyio.to_thread.run_sync(ledger_balance, environment))["reserved"]
                host.kill()
                await request.disconnected.wait()
            async with served.host(mode) as other:
                (summary,) = (await call(other, "list_delegations"))["delegations"]
                status = await call(other, "delegation_status", delegation_id=summary["delegation_id"], wait_seconds=30)
            still_serving = served.process.poll()
            _, said = served.end()

    assert bound > 0
    assert status["status"] == "cancelled"
    assert still_serving is None
    assert said == ""
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, bound)


@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_a_delegation_may_outlive_the_host_that_asked_for_it(
    environment: Environment, transport: str, mode: str
) -> None:
    """BUDGET_ON_DISCONNECT=detach: it goes on, and any other host of the tenant reads its answer."""
    heard = anyio.Event()
    environment["BUDGET_ON_DISCONNECT"] = "detach"
    async with ScriptedClaude([Turn(text="Heard after all.", hold=heard)]) as endpoint:
        environment = with_claude(environment, endpoint)
        with serving(environment, transport) as served, anyio.fail_after(60):
            with lost_host(served, mode) as host:
                (request,) = await endpoint.wait_for_requests(1)
                host.kill()
            async with served.host(mode) as other:
                (summary,) = (await call(other, "list_delegations"))["delegations"]
                heard.set()
                status = await call(other, "delegation_status", delegation_id=summary["delegation_id"], wait_seconds=30)

    assert not request.disconnected.is_set()
    assert (status["status"], status["text"]) == ("completed", "Heard after all.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_a_turn_in_flight_is_settled_and_its_host_answered_before_the_process_ends(
    environment: Environment, transport: str, mode: str, number: signal.Signals
) -> None:
    """Spend that may have happened is never handed back; who waits is told how it ended; exit codes are stdio's."""
    answers: list[dict[str, Any]] = []
    async with ScriptedClaude([Turn(text="never heard", hold=anyio.Event())]) as endpoint:
        environment = with_claude(environment, endpoint)
        with serving(environment, transport) as served, anyio.fail_after(60):
            async with served.host(mode) as client, anyio.create_task_group() as tasks:
                await client.list_tools()  # now: the SDK's client asks for schemas before it gives an answer

                async def delegate() -> None:
                    answers.append(await call(client, "delegate_to_claude", task="Wait."))

                tasks.start_soon(delegate)
                await endpoint.wait_for_requests(1)
                bound = (await anyio.to_thread.run_sync(ledger_balance, environment))["reserved"]
                with in_time(PATIENCE_SECONDS):
                    code, said = await anyio.to_thread.run_sync(served.end, number)

    assert code == 128 + number
    assert said == ""
    assert [answer["status"] for answer in answers] == ["cancelled"]
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, bound)
    assert bound > 0


async def test_what_a_killed_process_left_in_flight_is_settled_at_the_next_start(environment: Environment) -> None:
    """Crash: the turn in flight is charged at its bound, without any host connecting first."""
    async with ScriptedClaude([Turn(text="never heard", hold=anyio.Event())]) as endpoint:
        environment = with_claude(environment, endpoint)
        with serving(environment, "streamable-http") as served, lost_host(served, "auto"), anyio.fail_after(60):
            await endpoint.wait_for_requests(1)
            bound = (await anyio.to_thread.run_sync(ledger_balance, environment))["reserved"]
            served.process.kill()
            await anyio.to_thread.run_sync(served.process.wait)
        with serving(environment, "streamable-http") as served, anyio.fail_after(60):
            async with served.host() as client:
                (summary,) = (await call(client, "list_delegations"))["delegations"]
                status = await call(
                    client, "delegation_status", delegation_id=summary["delegation_id"], wait_seconds=30
                )

    assert status["status"] != "running"
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, bound)
    assert bound > 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_whether_it_is_well_can_be_asked_under_any_name(environment: Environment, transport: str) -> None:
    """Those who watch a process ask by its address, and are told nothing of what is in it."""
    with serving(environment, transport) as served, httpx.Client(base_url=served.address, timeout=10) as client:
        health = client.get("/health", headers={"Host": "10.0.0.7"})
        ready = client.get("/ready")

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_a_process_whose_authority_is_away_is_up_and_not_ready(environment: Environment) -> None:
    """A balancer must not send hosts to where no budget can be asked."""
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "key-1", "CYCLES_TENANT": "acme"}
    with serving(environment, "sse") as served, httpx.Client(base_url=served.address, timeout=10) as client:
        health, ready = client.get("/health"), client.get("/ready")

    assert health.status_code == 200
    assert (ready.status_code, ready.json()) == (503, {"status": "unavailable", "code": "AUTHORITY_UNAVAILABLE"})


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_body_past_all_measure_is_refused_and_the_next_one_served(
    environment: Environment, transport: str
) -> None:
    """A client that sends without end must fill neither the memory nor the way of others."""

    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65_536 + 2):
            yield b" " * 65_536

    with serving(environment, transport) as served, anyio.fail_after(60):
        with httpx.Client(headers={**ACCEPT, "Content-Type": "application/json"}, timeout=10) as raw:
            declared = await anyio.to_thread.run_sync(
                lambda: raw.post(served.post_url, content=b" " * (MAX_BODY_BYTES + 1))
            )
            streamed = await anyio.to_thread.run_sync(lambda: raw.post(served.post_url, content=endless()))
        async with served.host() as client:
            held = await call(client, "reserve_budget", usd="0.10")

    assert (declared.status_code, streamed.status_code) == (413, 413)
    assert held["decision"] == "ALLOW"


def test_a_host_that_comes_back_for_what_it_missed_is_given_a_stream_of_what_is_new(environment: Environment) -> None:
    """MCP 2025-11-25, resumability: a server may replay what was missed; this one keeps nothing to replay."""
    with serving(environment, "streamable-http") as served, httpx.Client(headers=ACCEPT, timeout=10) as raw:
        opened = raw.post(served.url, json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": OLDER}
        with raw.stream("GET", served.url, headers={**session, "Last-Event-ID": "1"}) as back:
            status, kind = back.status_code, back.headers["content-type"]

    assert status == 200
    assert kind.startswith("text/event-stream")


@pytest.mark.parametrize("version", [MODERN, OLDER])
def test_a_call_that_is_no_call_is_refused_as_json_rpc_wants_it(environment: Environment, version: str) -> None:
    """JSON-RPC 2.0, error -32602: what is wrong with a request is not an error of the server."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {**ACCEPT, "MCP-Protocol-Version": version, "Mcp-Method": "tools/call", "Mcp-Name": "check_budget"}
    params = {"name": "check_budget", "arguments": "all of it", "_meta": meta}
    with serving(environment, "streamable-http") as served, httpx.Client(headers=headers, timeout=10) as raw:
        if version == OLDER:
            raw.headers["Mcp-Session-Id"] = raw.post(served.url, json=INITIALIZE).headers["mcp-session-id"]
            raw.post(served.url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        answer = raw.post(served.url, json={"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
        _, said = served.end()

    message = next(line for line in answer.text.splitlines() if "jsonrpc" in line).removeprefix("data: ")
    assert json.loads(message)["error"]["code"] == -32602
    assert said == ""


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8765"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_web_page_cannot_reach_a_server_on_this_machine(
    environment: Environment, transport: str, headers: dict[str, str], status: int
) -> None:
    """MCP, security: DNS rebinding; nothing is begun for a foreign name, and nothing but a warning is logged."""
    with serving(environment, transport) as served:
        with httpx.Client(headers={**ACCEPT, **headers}, timeout=10) as raw:
            opened = raw.get(served.url)
            posted = raw.post(served.post_url, json=INITIALIZE)
        _, said = served.end()

    assert (opened.status_code, posted.status_code) == (status, status)
    assert "mcp-session-id" not in posted.headers
    assert "Traceback" not in said


def test_a_name_that_is_allowed_is_served(environment: Environment) -> None:
    """README, Over the network: behind a proxy, clients know the server by the proxy's name."""
    names = {"Host": "budget.example", "Origin": "https://budget.example"}
    with serving(environment, "streamable-http", "--allow-host", "budget.example") as served:
        answer = httpx.post(served.url, json=INITIALIZE, headers={**ACCEPT, **names}, timeout=10)
        other = httpx.post(served.url, json=INITIALIZE, headers={**ACCEPT, "Host": "evil.example"}, timeout=10)

    assert (answer.status_code, other.status_code) == (200, 421)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_idle_sessions_hold_up_neither_the_next_host_nor_the_end(
    environment: Environment, transport: str
) -> None:
    """Hosts keep sessions open for days; a process must serve beside them and still end in time."""
    limits = httpx.Limits(max_connections=None)
    with serving(environment, transport) as served, anyio.fail_after(60):
        async with httpx.AsyncClient(headers=ACCEPT, limits=limits, timeout=30) as raw, AsyncExitStack() as stack:
            for _ in range(IDLE_SESSIONS):
                if transport == "sse":
                    stream = await stack.enter_async_context(raw.stream("GET", served.url))
                    assert stream.status_code == 200
                else:
                    opened = await raw.post(served.url, json=INITIALIZE)
                    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": OLDER}
                    stream = await stack.enter_async_context(raw.stream("GET", served.url, headers=session))
                    assert stream.status_code == 200
            async with served.host() as client:
                held = await call(client, "reserve_budget", usd="0.10")
                with in_time(PATIENCE_SECONDS):
                    code, said = await anyio.to_thread.run_sync(served.end)

    assert held["decision"] == "ALLOW"
    assert (code, said) == (128 + signal.SIGTERM, "")


def test_a_port_that_is_taken_is_one_sentence(environment: Environment) -> None:
    """Exit code 2 and what to do, before anything is opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = complaint_of(environment, "serve", "--transport", "sse", "--port", str(port))

    assert f"Cannot listen on 127.0.0.1:{port}" in said
    assert "--port" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that it is refused is the point
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_other_machine_can_reach_a_server_that_asks_nobody_who_they_are(
    environment: Environment, transport: str, host: str
) -> None:
    """Whoever reaches it spends its budget."""
    assert "Only loopback" in complaint_of(
        environment, "serve", "--transport", transport, "--port", "0", "--host", host
    )


def test_a_name_that_is_none_is_refused(environment: Environment) -> None:
    """A URL in place of a name would allow nothing, in silence."""
    said = complaint_of(environment, "serve", "--transport", "sse", "--allow-host", "https://budget.example")

    assert "--allow-host" in said
