"""With CYCLES_BASE_URL set, budgets live on a Cycles server: same tools, same answers, over real HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client

from budget_server.authority import keys
from budget_server.authority.budgets import allocate_first
from budget_server.authority.http import create_app
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from contract.face import Face
from hosting import Environment, call, ledger_balance, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def remote(environment: Environment, tmp_path: Path, face: Face) -> Iterator[Path]:
    """The directory of the other side's ledger, served over HTTP; the server under test is not told of it."""
    store = LedgerStore(tmp_path / "remote" / LEDGER_FILE)
    store.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="USD_MICROCENTS", amount=10_000_000))
    _, secret = store.run(
        lambda ledger: keys.create(ledger.db, tenant="acme", name="", now_ms=ledger.now_ms, expires_at_ms=None)
    )
    writer = Writer(store)
    face.app = create_app(AsyncFile(writer))
    del environment["BUDGET_USD"]
    environment |= {"CYCLES_BASE_URL": face.address, "CYCLES_API_KEY": secret, "CYCLES_TENANT": "acme"}
    yield tmp_path / "remote"
    writer.close()


async def test_the_tools_work_the_same_on_a_cycles_server(
    host: Callable[..., Client], environment: Environment, remote: Path
) -> None:
    """Upper layers cannot tell an embedded ledger from a server; nothing is kept locally."""
    script = [Turn(text="Done.")]
    with anyio.fail_after(60):
        async with ScriptedClaude(script) as endpoint:
            environment |= {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": endpoint.base_url}
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


MADE_UP = [
    "{id}/release?x=",
    "{id}%2Frelease",
    "../reservations/{id}",
    "{id}#",
    "{id}/../{id}",
    ".",
    "..",
    "é {id}",
    "%",
]


@pytest.mark.parametrize("made_up", MADE_UP)
async def test_an_id_that_a_model_made_up_reaches_nothing_else(
    host: Callable[..., Client], environment: Environment, remote: Path, made_up: str
) -> None:
    """An id is one segment of a path, whatever is in it: the key that this server has asks for nothing else by it."""
    with anyio.fail_after(60):
        async with host() as client:
            held = await call(client, "reserve_budget", usd="0.02")
            wrong = made_up.format(id=held["reservation_id"])
            said = [
                await refused(client, "commit_usage", reservation_id=wrong, usd="0.01"),
                await refused(client, "release_budget", reservation_id=wrong),
                await refused(client, "extend_reservation", reservation_id=wrong, seconds=60),
            ]

    assert [sentence.partition(":")[0] for sentence in said] == ["NOT_FOUND"] * 3
    environment["BUDGET_DATA_DIR"] = str(remote)
    assert ledger_balance(environment, tenant="acme")["reserved"] == 2_000_000


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
    assert environment["CYCLES_API_KEY"] not in sentence


@pytest.mark.usefixtures("remote")
async def test_a_wrong_key_is_said_without_echoing_it(host: Callable[..., Client], environment: Environment) -> None:
    """Credentials are the person's to mend."""
    environment["CYCLES_API_KEY"] = "wrong-canary"

    with anyio.fail_after(60):
        async with host() as client:
            sentence = await refused(client, "reserve_budget", usd="0.02")

    assert sentence.startswith("UNAUTHORIZED: ")
    assert "CYCLES_API_KEY" in sentence
    assert "canary" not in sentence
