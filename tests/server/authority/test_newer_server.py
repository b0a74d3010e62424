"""A Cycles server that says more than the client library knows, and a proxy that answers in its place.

The authority is our own ledger over HTTP; what stands between it and the server under test changes its answers.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from pydantic import SecretStr
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from budget_server.authority import keys
from budget_server.authority.budgets import allocate_first
from budget_server.authority.http import create_app
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from budget_server.demo.scripted_claude import ScriptedClaude, Turn, Usage
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.errors import ConfigurationError
from contract.face import Face, plain_loopback
from hosting import call, refused, text_of

pytestmark = pytest.mark.anyio

RESERVE, COMMIT, EVENT, EXTEND, RELEASE = "/v1/reservations", "/commit", "/v1/events", "/extend", "/release"
BALANCES = "/v1/balances"
ALLOCATED = 10_000_000

Change = Callable[[dict[str, Any]], object]


class Between:
    """Passes requests on to an authority and changes the answers of some paths.

    Attributes:
        changes: what becomes of the body of a success, by the end of its path; a response takes its whole place.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.changes: dict[str, Change | Response] = {}
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        self.seen.append(path)
        change = next((each for end, each in self.changes.items() if path.endswith(end)), None)
        if change is None:
            await self._app(scope, receive, send)
            return
        answer: list[Any] = []

        async def keep(message: Any) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        if isinstance(change, Response):
            await change(scope, receive, send)
            return
        status = answer[0]["status"]
        body = json.loads(b"".join(each.get("body", b"") for each in answer[1:]))
        body = change(body) if status < 300 else body
        await Response(json.dumps(body), status_code=status, media_type="application/json")(scope, receive, send)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[LedgerStore, str]]:
    """The authority's ledger with ten cents for a tenant, and the key of that tenant."""
    opened = LedgerStore(tmp_path / "remote" / LEDGER_FILE)
    opened.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="USD_MICROCENTS", amount=ALLOCATED))
    _, secret = opened.run(
        lambda ledger: keys.create(ledger.db, tenant="acme", name="", now_ms=ledger.now_ms, expires_at_ms=None)
    )
    yield opened, secret
    opened.close()


@pytest.fixture
def between(store: tuple[LedgerStore, str], face: Face) -> Between:
    """What stands before that authority, at the address of the face."""
    made = Between(create_app(AsyncFile(Writer(store[0]))))
    face.app = made
    return made


@pytest.fixture
async def services(
    tmp_path: Path, face: Face, store: tuple[LedgerStore, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Services]:
    """A process whose budgets live there, and whose sub-agents say one word."""
    plain_loopback(monkeypatch, tmp_path)
    async with ScriptedClaude(lambda _body, _number: Turn(text="Done.", usage=USAGE)) as claude:
        made = Services(
            Settings(
                budget_data_dir=tmp_path / "data",
                cycles_base_url=face.address,
                cycles_api_key=SecretStr(store[1]),
                cycles_tenant="acme",
                anthropic_api_key=SecretStr("scripted"),
                anthropic_base_url=claude.base_url,
            )
        )
        yield made
        with anyio.fail_after(20):
            await made.aclose()


USAGE = Usage(input_tokens=100, output_tokens=50)
CHARGED = 70_000
"""What a turn with this usage costs on claude-sonnet-5-5, in microcents."""


@pytest.fixture
async def client(services: Services, between: Between) -> AsyncIterator[Client]:  # noqa: ARG001 - serves the address
    """A host of that process."""
    with anyio.fail_after(60):
        async with Client(create_server(services)) as connected:
            yield connected


def budget(store: tuple[LedgerStore, str]) -> tuple[int, int]:
    """What the authority's ledger holds, and what it has booked as spent."""
    row = store[0].run(lambda ledger: ledger.db.execute("SELECT reserved, spent FROM budgets").fetchone())
    assert row is not None
    return int(row[0]), int(row[1])


def journal(tmp_path: Path) -> list[Path]:
    """The commits that are to be repeated."""
    return list((tmp_path / "data" / JOURNAL_DIRECTORY).rglob("*.json"))


def more(**fields: object) -> Change:
    """Add fields to an answer, or replace them."""
    return lambda body: body | fields


def in_balances(**fields: object) -> Change:
    """Add fields to each balance of an answer."""
    return lambda body: body | {"balances": [row | fields for row in body["balances"]]}


READABLE: Mapping[str, Change] = {
    "one new field": more(policy_version="7"),
    "a null for a field that it knows": more(caps=None),
    "a null for a field that it does not know": more(hint=None),
    "a new field in each balance": in_balances(currency="USD"),
    "a null in each balance": in_balances(debt=None),
    "balances in a unit to come": in_balances(remaining={"unit": "EUR_CENTS", "amount": 3}),
    "evidence of another shape": more(cycles_evidence={"id": 5}),
    "balances that are none": more(balances="none"),
}


@pytest.mark.parametrize("how", READABLE)
async def test_a_newer_server_is_understood(
    client: Client, between: Between, store: tuple[LedgerStore, str], tmp_path: Path, how: str
) -> None:
    """A field more, or a null, is no reason to hold money for nobody: reserved, extended, settled, booked and spent."""
    between.changes = dict.fromkeys((COMMIT, EVENT, EXTEND, RELEASE, RESERVE), READABLE[how])

    held = await call(client, "reserve_budget", usd="0.02")
    settled = await call(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.01")
    booked = await call(client, "record_usage", usd="0.01")
    other = await call(client, "reserve_budget", usd="0.02")
    released = await call(client, "release_budget", reservation_id=other["reservation_id"])
    delegated = await call(client, "delegate_to_claude", task="Say it.", max_output_tokens=100)

    assert (held["decision"], settled["status"]) == ("ALLOW", "COMMITTED")
    assert (booked["decision"], released["status"]) == ("ALLOW", "RELEASED")
    assert (delegated["status"], delegated["spent"]["amount"]) == ("completed", CHARGED)
    assert budget(store) == (0, 2_000_000 + CHARGED)
    assert journal(tmp_path) == []


@pytest.mark.parametrize("status", [201, 202])
async def test_another_status_of_success_is_a_success(
    client: Client, between: Between, store: tuple[LedgerStore, str], status: int
) -> None:
    """A server may say 201 for what it made."""
    app = between._app

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def change(message: Any) -> None:
            is_success = message["type"] == "http.response.start" and message["status"] == 200
            await send(message | {"status": status} if is_success else message)

        await app(scope, receive, change)

    between._app = serve

    delegated = await call(client, "delegate_to_claude", task="Say it.", max_output_tokens=100)

    assert (delegated["status"], delegated["spent"]["amount"]) == ("completed", CHARGED)
    assert budget(store) == (0, CHARGED)


UNREADABLE: Mapping[str, Change] = {
    "a decision to come": more(decision="ALLOW_WITH_CONDITIONS"),
    "no decision": lambda body: {name: value for name, value in body.items() if name != "decision"},
    "a limit that nobody here would keep to": more(decision="ALLOW_WITH_CAPS", caps={"max_images": 3}),
    "a limit that is not a number": more(decision="ALLOW_WITH_CAPS", caps={"max_tokens": "few"}),
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_reserve_that_cannot_be_read_is_no_denial_and_holds_nothing(
    client: Client, between: Between, store: tuple[LedgerStore, str], how: str
) -> None:
    """It was allowed: to call it a denial would be a lie, and to keep it would hold money for nobody."""
    between.changes = {RESERVE: UNREADABLE[how]}

    sentence = await refused(client, "reserve_budget", usd="0.02", idempotency_key="k-1")
    delegated = await client.call_tool("delegate_to_claude", {"task": "Say it."})

    assert sentence.startswith("AUTHORITY_UNAVAILABLE")
    assert "its answer cannot be read" in sentence
    assert "idempotency_key k-1" in sentence
    assert "cannot be read" in text_of(delegated)
    assert "budget_exhausted" not in text_of(delegated)
    assert budget(store) == (0, 0)


async def test_a_reserve_that_names_nothing_is_no_denial_and_is_given_back_by_its_key(
    client: Client, between: Between, store: tuple[LedgerStore, str]
) -> None:
    """Without an id it is found in the list, by the key that it was made under."""
    between.changes = {RESERVE: lambda body: {name: each for name, each in body.items() if name != "reservation_id"}}

    sentence = await refused(client, "reserve_budget", usd="0.02", idempotency_key="k-1")
    delegated = await client.call_tool("delegate_to_claude", {"task": "Say it."})
    tried = await call(client, "reserve_budget", usd="0.02", dry_run=True)

    assert "its answer cannot be read" in sentence
    assert "cannot be read" in text_of(delegated)
    assert "budget_exhausted" not in text_of(delegated)
    assert budget(store) == (0, 0)
    assert tried["decision"] == "ALLOW", "a dry run holds nothing, and names nothing"


async def test_what_a_newer_server_says_of_a_denial_reaches_the_caller_of_a_delegation(
    client: Client, between: Between
) -> None:
    """The library forgets the details of an error that has a field more."""
    detail = {"reason_code": "BUDGET_FROZEN", "suggested_fix": "Ask Ann for more.", "blocked_by_scope": "tenant:acme"}
    error = {"error": "BUDGET_FROZEN", "message": "No.", "request_id": "r", "trace_id": "t"}
    said = json.dumps(error | {"details": {"deny_detail": detail}})
    between.changes = {RESERVE: Response(said, status_code=409, media_type="application/json")}

    delegated = await call(client, "delegate_to_claude", task="Say it.")

    assert delegated["status"] == "budget_exhausted"
    assert "Ask Ann for more." in delegated["hint"]


PAGES = {
    "a page under 200": Response("<html>Welcome</html>", media_type="text/html"),
    "nothing under 204": Response(status_code=204),
    "another document under 200": Response('{"status": "ok"}', media_type="application/json"),
    "a page under 404": Response("<html>Not here</html>", status_code=404, media_type="text/html"),
    "a document under 404": Response(
        '{"message": "no Route matched with those values"}', status_code=404, media_type="application/json"
    ),
    "another framework's 404": Response(
        '{"timestamp": 1, "status": 404, "error": "Not Found", "path": "/"}', 404, media_type="application/json"
    ),
    "a page under 409": Response("<html>Conflict</html>", status_code=409, media_type="text/html"),
    "a redirect": Response(status_code=307, headers={"location": "https://elsewhere.example/"}),
}


@pytest.mark.parametrize("how", PAGES)
async def test_what_a_proxy_answers_is_no_denial(client: Client, between: Between, how: str) -> None:
    """Whoever is told that the budget is used up raises it, and nothing changes."""
    between.changes = {RESERVE: PAGES[how], BALANCES: PAGES[how]}

    said = [
        await refused(client, "reserve_budget", usd="0.02"),
        text_of(await client.call_tool("delegate_to_claude", {"task": "Say it."})),
        await refused(client, "check_budget"),
    ]

    for sentence in said:
        assert "DENY" not in sentence
        assert "NOT_FOUND" not in sentence
        assert "budget_exhausted" not in sentence
        assert "Error executing" not in sentence
        assert "cannot be read" in sentence or "check CYCLES_BASE_URL" in sentence


async def test_the_authoritys_own_404_says_that_there_is_no_budget(client: Client, between: Between) -> None:
    """Cycles v0: no scope of the subject has a budget; a server may add what the library does not know."""
    error = {"error": "NOT_FOUND", "message": "No budget", "request_id": "r", "trace_id": "t", "details": None}
    between.changes = {RESERVE: Response(json.dumps(error), status_code=404, media_type="application/json")}

    denied = await call(client, "reserve_budget", usd="0.02")
    delegated = await call(client, "delegate_to_claude", task="Say it.")

    assert (denied["decision"], denied["reason_code"]) == ("DENY", "BUDGET_NOT_FOUND")
    assert delegated["status"] == "budget_exhausted"
    assert "BUDGET_NOT_FOUND" in delegated["hint"]


async def test_a_denial_with_odd_details_is_still_that_denial(client: Client, between: Between) -> None:
    """What is beside the code is a help, not a condition."""
    error = {"error": "BUDGET_EXCEEDED", "message": "No.", "details": ["?"], "retry_after_ms": "soon", "trace_id": 5}
    between.changes = {RESERVE: Response(json.dumps(error), status_code=409, media_type="application/json")}

    denied = await call(client, "reserve_budget", usd="0.02")

    assert (denied["decision"], denied["reason_code"]) == ("DENY", "BUDGET_EXCEEDED")


async def test_a_commit_refused_for_good_is_not_repeated_though_the_error_says_more(
    client: Client, between: Between, tmp_path: Path
) -> None:
    """Current servers put a trace_id into each error, which the library takes for an error that it does not know."""
    held = await call(client, "reserve_budget", usd="0.02")
    error = {"error": "RESERVATION_FINALIZED", "message": "Settled.", "request_id": "r", "trace_id": "t"}
    between.changes = {COMMIT: Response(json.dumps(error), status_code=409, media_type="application/json")}

    sentence = await refused(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.01")

    assert sentence.startswith("RESERVATION_FINALIZED")
    assert journal(tmp_path) == []


# -- keys that a host chooses -----------------------------------------------------------------------------------------

WRONG_KEYS = ["clé-1", "k ", " k", "k\n", "k\r\nx: y", "\tk", "k\x00", "k\x7f", "鍵", " ", "k\u00a0"]


@pytest.mark.parametrize("where", ["here", "on a Cycles server"])
@pytest.mark.parametrize("key", WRONG_KEYS)
async def test_a_key_that_cannot_travel_is_refused_in_every_mode_alike(
    where: str, key: str, client: Client, between: Between, tmp_path: Path
) -> None:
    """The client library sends the key as a header, too; what works on this machine must work on a server."""
    local = Services(Settings(budget_data_dir=tmp_path / "local", budget_usd="1.00"))
    try:
        async with Client(create_server(local)) as at_home:
            host = at_home if where == "here" else client
            held = await call(host, "reserve_budget", usd="0.02")
            between.seen.clear()
            said = [
                await refused(host, "reserve_budget", usd="0.02", idempotency_key=key),
                await refused(host, "record_usage", usd="0.02", idempotency_key=key),
                await refused(
                    host, "commit_usage", reservation_id=held["reservation_id"], usd="0.01", idempotency_key=key
                ),
                await refused(
                    host, "extend_reservation", reservation_id=held["reservation_id"], seconds=5, idempotency_key=key
                ),
                await refused(host, "release_budget", reservation_id=held["reservation_id"], idempotency_key=key),
                await refused(host, "delegate_to_claude", task="Say it.", idempotency_key=key),
            ]
    finally:
        await local.aclose()

    assert {each.partition(" must be")[0] for each in said} == {"INVALID_ARGUMENT: idempotency_key:"}
    assert between.seen == []


@pytest.mark.parametrize("key", ["k", "a b", "k-1/2:3;4,5\"'", "x" * 256])
async def test_a_key_that_can_travel_finds_the_same_again(client: Client, key: str) -> None:
    """Blanks within it, and whatever else a header takes."""
    first = await call(client, "reserve_budget", usd="0.02", idempotency_key=key)
    again = await call(client, "reserve_budget", usd="0.02", idempotency_key=key)

    assert first["reservation_id"] == again["reservation_id"]


@pytest.mark.parametrize("where", ["here", "on a Cycles server"])
async def test_a_reserve_key_repeated_after_its_end_says_that_nothing_is_held(
    where: str, client: Client, tmp_path: Path
) -> None:
    """The authority gives the first answer again, which was ALLOW: to spend by it would be without a reservation."""
    local = Services(Settings(budget_data_dir=tmp_path / "local", budget_usd="1.00"))
    try:
        async with Client(create_server(local)) as at_home:
            host = at_home if where == "here" else client
            for number, (tool, amount) in enumerate([("commit_usage", {"usd": "0.01"}), ("release_budget", {})]):
                first = await call(host, "reserve_budget", usd="0.02", idempotency_key=f"k-{number}")
                await call(host, tool, reservation_id=first["reservation_id"], **amount)
                again = await host.call_tool("reserve_budget", {"usd": "0.02", "idempotency_key": f"k-{number}"})
                found = again.structured_content or {}
                assert (found["decision"], found["reason_code"]) == ("DENY", "RESERVATION_FINALIZED")
                assert "reservation_id" not in found or not found["reservation_id"]
                assert first["reservation_id"] in found["hint"]
                assert ("settled already at $0.01" in text_of(again)) == (tool == "commit_usage")
                assert ("released already" in text_of(again)) == (tool == "release_budget")
                assert "Settle with" not in text_of(again)
    finally:
        await local.aclose()


# -- the way there ----------------------------------------------------------------------------------------------------


async def test_an_entry_of_no_proxy_keeps_nobody_from_a_cycles_server(
    tmp_path: Path, face: Face, store: tuple[LedgerStore, str], between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's library fails on an address in brackets, and on a SOCKS proxy that it does not need."""
    monkeypatch.setenv("NO_PROXY", "[::1],127.0.0.1")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    settings = Settings(
        budget_data_dir=tmp_path / "data",
        cycles_base_url=face.address,
        cycles_api_key=SecretStr(store[1]),
        cycles_tenant="acme",
    )
    services = Services(settings)
    try:
        async with Client(create_server(services)) as client:
            assert (await call(client, "check_budget"))["balances"][0]["remaining"]["usd"] == "0.10"
    finally:
        await services.aclose()
    assert between.seen

    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ConfigurationError, match=r"^ALL_PROXY names a SOCKS proxy"):
        Services(settings)
