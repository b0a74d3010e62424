"""With CYCLES_BASE_URL set, budgets live on a Cycles server: same tools, same answers, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import uvicorn
from mcp import Client
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from budget_server.authority.budgets import allocate_first
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.store import LedgerStore
from budget_server.authority.writer import Writer
from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from hosting import Environment, call, ledger_balance, refused

pytestmark = pytest.mark.anyio

API_KEY = "cyc-test-canary-key"


def routes(client: AsyncCyclesClient) -> list[Route]:
    """The protocol's paths over any client: enough of a Cycles server to be one on the wire."""

    def route(path: str, method: str, handler: Callable[[Request], Awaitable[CyclesResponse]]) -> Route:
        async def endpoint(request: Request) -> JSONResponse:
            if request.headers.get("x-cycles-api-key") != API_KEY:
                unauthorized = {"error": "UNAUTHORIZED", "message": "INVALID_KEY", "request_id": "r"}
                return JSONResponse(unauthorized, status_code=401)
            response = await handler(request)
            return JSONResponse(response.body, status_code=response.status, headers=response.headers)

        return Route(path, endpoint, methods=[method])

    async def create(request: Request) -> CyclesResponse:
        return await client.create_reservation(await request.json())

    async def commit(request: Request) -> CyclesResponse:
        return await client.commit_reservation(request.path_params["id"], await request.json())

    async def release(request: Request) -> CyclesResponse:
        return await client.release_reservation(request.path_params["id"], await request.json())

    async def extend(request: Request) -> CyclesResponse:
        return await client.extend_reservation(request.path_params["id"], await request.json())

    async def balances(request: Request) -> CyclesResponse:
        return await client.get_balances(**request.query_params)

    return [
        route("/v1/reservations", "POST", create),
        route("/v1/reservations/{id}/commit", "POST", commit),
        route("/v1/reservations/{id}/release", "POST", release),
        route("/v1/reservations/{id}/extend", "POST", extend),
        route("/v1/balances", "GET", balances),
    ]


@asynccontextmanager
async def cycles_server(directory: Path) -> AsyncIterator[str]:
    """Serve a ledger over HTTP on loopback and give its address."""
    store = LedgerStore(directory / "ledger.sqlite3")
    store.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="USD_MICROCENTS", amount=10_000_000))
    config = CyclesConfig(base_url="embedded://test", api_key="none", tenant="acme", journal_dir=str(directory / "j"))
    client = EmbeddedCyclesClient(Writer(store), config)
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes(client)), port=0, log_level="warning"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.shutdown()
        await client.aclose()


@pytest.fixture
def remote(environment: Environment, tmp_path: Path) -> Path:
    """The directory of the other side's ledger; the server under test is not told of it."""
    del environment["BUDGET_USD"]
    environment |= {"CYCLES_API_KEY": API_KEY, "CYCLES_TENANT": "acme"}
    return tmp_path / "remote"


async def test_the_tools_work_the_same_on_a_cycles_server(
    host: Callable[..., Client], environment: Environment, remote: Path
) -> None:
    """Upper layers cannot tell an embedded ledger from a server; nothing is kept locally."""
    script = [Turn(text="Done.")]
    with anyio.fail_after(60):
        async with cycles_server(remote) as address, ScriptedClaude(script) as endpoint:
            environment |= {
                "CYCLES_BASE_URL": address,
                "ANTHROPIC_API_KEY": "k",
                "ANTHROPIC_BASE_URL": endpoint.base_url,
            }
            async with host() as client:
                held = await call(client, "reserve_budget", usd="0.02")
                await call(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.01")
                denied = await call(client, "reserve_budget", usd="5")
                result = await call(client, "delegate_to_claude", task="Hello", max_output_tokens=500)

    assert (denied["decision"], denied["reason_code"]) == ("DENY", "BUDGET_EXCEEDED")
    assert result["status"] == "completed"
    spent = 1_000_000 + result["spent"]["amount"]
    environment["BUDGET_DATA_DIR"] = str(remote)
    assert ledger_balance(environment, tenant="acme") == {
        "allocated": 10_000_000,
        "remaining": 10_000_000 - spent,
        "reserved": 0,
        "spent": spent,
    }


@pytest.mark.usefixtures("remote")
async def test_an_authority_that_is_away_is_said_in_one_sentence(
    host: Callable[..., Client], environment: Environment
) -> None:
    """Nothing may be spent without an authority, and a repeat must be safe: the sentence carries the key."""
    environment["CYCLES_BASE_URL"] = "http://127.0.0.1:9"

    with anyio.fail_after(60):
        async with host() as client:
            sentence = await refused(client, "reserve_budget", usd="0.02", idempotency_key="key-1")

    assert sentence.startswith("AUTHORITY_UNAVAILABLE: ")
    assert "key-1" in sentence
    assert API_KEY not in sentence


async def test_a_wrong_key_is_said_without_echoing_it(
    host: Callable[..., Client], environment: Environment, remote: Path
) -> None:
    """Credentials are the person's to mend."""
    environment["CYCLES_API_KEY"] = "wrong-canary"

    with anyio.fail_after(60):
        async with cycles_server(remote) as address:
            environment["CYCLES_BASE_URL"] = address
            async with host() as client:
                sentence = await refused(client, "reserve_budget", usd="0.02")

    assert sentence.startswith("UNAUTHORIZED: ")
    assert "CYCLES_API_KEY" in sentence
    assert "canary" not in sentence
