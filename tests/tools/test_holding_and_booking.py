"""Giving back, holding for longer, and booking what had no reservation, as a host calls the tools."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest
from mcp import Client

from budget_server.authority import budgets
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.config.settings import Settings
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.money import USD_MICROCENTS
from hosting import ALLOCATED, call, ledger_balance, refused, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    """A process with one dollar in its ledger."""
    made = Services(Settings(budget_data_dir=tmp_path, budget_usd="1.00"))
    yield made
    await made.aclose()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[Client]:
    """A host of that process."""
    with anyio.fail_after(20):
        async with Client(create_server(services)) as connected:
            yield connected


def balance(directory: Path) -> dict[str, int]:
    """What the ledger file says."""
    return ledger_balance({"BUDGET_DATA_DIR": str(directory)})


async def test_a_released_reservation_goes_back_whole_and_once(client: Client, tmp_path: Path) -> None:
    """Cycles v0, release: all of it, and a repeated key is the same answer."""
    held = await call(client, "reserve_budget", usd="0.30")
    first = await client.call_tool("release_budget", {"reservation_id": held["reservation_id"], "reason": "not needed"})
    assert first.structured_content is not None
    key = first.structured_content["idempotency_key"]

    again = await call(
        client, "release_budget", reservation_id=held["reservation_id"], reason="not needed", idempotency_key=key
    )

    assert again == first.structured_content
    assert again["status"] == "RELEASED"
    assert again["released"]["usd"] == "0.30"
    assert again["remaining"]["usd"] == "1.00"
    assert "$0.30" in text_of(first)
    assert "$1.00 remains" in text_of(first)
    assert balance(tmp_path)["remaining"] == ALLOCATED
    assert "RESERVATION_FINALIZED" in await refused(client, "release_budget", reservation_id=held["reservation_id"])


async def test_an_extension_is_counted_from_the_old_expiry_and_repeats_under_its_key(client: Client) -> None:
    """Cycles v0, extend: a host that lost the answer must not extend twice."""
    held = await call(client, "reserve_budget", usd="0.30", ttl_seconds=60)
    extend = {"reservation_id": held["reservation_id"], "seconds": 3_600, "idempotency_key": "e-1"}

    first = await call(client, "extend_reservation", **extend)
    again = await call(client, "extend_reservation", **extend)
    more = await call(client, "extend_reservation", **{**extend, "idempotency_key": ""})

    until = datetime.fromisoformat(held["expires_at"])
    assert again == first
    assert (first["status"], first["idempotency_key"]) == ("ACTIVE", "e-1")
    assert datetime.fromisoformat(first["expires_at"]) == until + timedelta(seconds=3_600)
    assert datetime.fromisoformat(more["expires_at"]) == until + timedelta(seconds=7_200)
    assert more["idempotency_key"] not in ("", "e-1")


async def test_spend_without_a_reservation_is_booked_once(client: Client, tmp_path: Path) -> None:
    """Cycles v0, events: charged at once, and once under one key."""
    first = await client.call_tool("record_usage", {"usd": "0.20", "action_name": "search", "idempotency_key": "b-1"})
    again = await call(client, "record_usage", usd="0.20", action_name="search", idempotency_key="b-1")

    assert first.structured_content == again
    assert (again["decision"], again["charged"]["usd"], again["remaining"]["usd"]) == ("ALLOW", "0.20", "0.80")
    assert again["event_id"] in text_of(first)
    assert balance(tmp_path)["spent"] == 20_000_000


async def test_usage_is_booked_at_its_price(client: Client) -> None:
    """One price book: what is recorded costs what a commit of the same usage would."""
    usage = {"input_tokens": 1_000, "output_tokens": 500}

    booked = await call(client, "record_usage", model="claude-sonnet-4-6", usage=usage)

    assert booked["charged"]["amount"] == 1_000 * 300 + 500 * 1_500
    assert booked["price_source"]


async def test_a_denied_record_is_an_answer_and_books_nothing(client: Client, tmp_path: Path) -> None:
    """Design: a denial says what remains and what to do, in the structure and in the text."""
    result = await client.call_tool("record_usage", {"usd": "1.50", "overage_policy": "REJECT"})

    assert not result.is_error
    assert result.structured_content is not None
    assert (result.structured_content["decision"], result.structured_content["reason_code"]) == (
        "DENY",
        "BUDGET_EXCEEDED",
    )
    assert result.structured_content["hint"]
    assert "charged" not in result.structured_content
    assert text_of(result).startswith("DENY (BUDGET_EXCEEDED")
    assert "$1.00 remains" in text_of(result)
    assert balance(tmp_path)["spent"] == 0


async def test_spend_beyond_the_budget_is_capped_and_said(client: Client, tmp_path: Path) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: what is there is charged, and the budget is over its limit."""
    booked = await call(client, "record_usage", usd="1.50")
    checked = await call(client, "check_budget")

    assert booked["charged"]["usd"] == "1.00"
    assert "over its limit" in booked["hint"]
    warning = "tenant:local has reached the 95 % mark: 100 % of its 1.00 USD is used"
    uncovered = (
        "$0.50 was spent on tenant:local that no budget covers; a person who has seen it clears it with "
        "`cycles-budget-mcp budget clear`"
    )
    assert booked["warnings"] == checked["warnings"] == [warning, uncovered]
    assert booked["uncovered"] == checked["balances"][0]["uncovered"]
    assert checked["balances"][0]["is_over_limit"] is True
    assert balance(tmp_path)["remaining"] == 0


@pytest.mark.parametrize(
    ("tool", "arguments", "names"),
    [
        ("release_budget", {}, "reservation_id"),
        ("release_budget", {"reservation_id": "r-unknown"}, "r-unknown"),
        ("release_budget", {"reservation_id": "r", "usd": 1}, "'usd'"),
        ("release_budget", {"reservation_id": "r", "reason": "x" * 257}, "reason"),
        ("extend_reservation", {"reservation_id": "r-unknown", "seconds": 1}, "r-unknown"),
        ("extend_reservation", {"reservation_id": "r"}, "seconds"),
        ("extend_reservation", {"reservation_id": "r", "seconds": 0}, "seconds"),
        ("extend_reservation", {"reservation_id": "r", "seconds": "60"}, "seconds"),
        ("extend_reservation", {"reservation_id": "r", "seconds": 1.0}, "seconds"),
        ("extend_reservation", {"reservation_id": "r", "seconds": 86_401}, "seconds"),
        ("record_usage", {}, "exactly one way"),
        ("record_usage", {"usd": 1, "amount": 1}, "exactly one way"),
        ("record_usage", {"model": "claude-sonnet-4-6"}, "usage"),
        ("record_usage", {"usd": 0.1, "overage_policy": "SURE"}, "overage_policy"),
        ("record_usage", {"usd": 0.1, "action_kind": ""}, "action_kind"),
        ("record_usage", {"usd": 0.1, "subject": {"agent": "a/b"}}, "subject.agent"),
        ("check_budget", {"scope": "tenant:local"}, "'scope'"),
        ("check_budget", {"subject": {"tenant": "other"}}, "subject.tenant"),
        ("list_reservations", {"status": "active"}, "status"),
        ("list_reservations", {"limit": 0}, "limit"),
        ("list_reservations", {"limit": 201}, "limit"),
        ("list_reservations", {"limit": True}, "limit"),
        ("list_reservations", {"cursor": "no cursor"}, "cursor"),
    ],
)
async def test_bad_input_is_named_and_changes_nothing(
    client: Client, tmp_path: Path, tool: str, arguments: dict[str, object], names: str
) -> None:
    """Design: an unknown argument is refused by name, integers are strict, and nothing is written."""
    assert names in await refused(client, tool, **arguments)
    assert balance(tmp_path) == {"allocated": ALLOCATED, "remaining": ALLOCATED, "reserved": 0, "spent": 0}


async def allocate(services: Services, scope: str, microcents: int, period: str = "none") -> None:
    """Set a budget as a person does."""
    cycles = services.cycles
    assert isinstance(cycles, EmbeddedCyclesClient)
    unit = USD_MICROCENTS
    await cycles.ledger.run(
        lambda ledger: budgets.allocate(ledger.db, scope=scope, tenant="local", unit=unit, amount=microcents)
    )
    await cycles.ledger.run(
        lambda ledger: budgets.set_period(
            ledger.db, scope=scope, unit=unit, period=period, time_zone="UTC", now_ms=ledger.now_ms
        )
    )


async def test_balances_are_shown_by_scope_with_their_period(services: Services, client: Client) -> None:
    """Design, check_budget: those that spending draws on and those within, whole paths, nothing of neighbours."""
    await allocate(services, "tenant:local/agent:bot", 40_000_000, "day")
    await allocate(services, "tenant:local/agent:bot2", 10_000_000)
    await call(client, "reserve_budget", usd="0.30", subject={"agent": "bot"})

    everything = await client.call_tool("check_budget", {})
    of_the_bot = await call(client, "check_budget", subject={"agent": "bot"})

    assert everything.structured_content is not None
    all_balances = everything.structured_content["balances"]
    assert [each["scope"] for each in all_balances] == [
        "tenant:local",
        "tenant:local/agent:bot",
        "tenant:local/agent:bot2",
    ]
    assert of_the_bot["balances"] == all_balances[:2]
    bot = of_the_bot["balances"][1]
    assert (bot["period"], bot["allocated"]["usd"], bot["reserved"]["usd"], bot["remaining"]["usd"]) == (
        "day",
        "0.40",
        "0.30",
        "0.10",
    )
    assert bot["remaining"]["amount"] == bot["allocated"]["amount"] - bot["spent"]["amount"] - bot["reserved"]["amount"]
    assert of_the_bot["warnings"] == ["tenant:local/agent:bot has reached the 50 % mark: 75 % of its 0.40 USD is used"]
    text = text_of(everything)
    assert "tenant:local/agent:bot: $0.10 remains of $0.40 per day ($0.00 spent, $0.30 reserved)" in text
    assert f"Warning: {of_the_bot['warnings'][0]}." in text


async def test_without_a_budget_the_check_says_who_sets_one(tmp_path: Path) -> None:
    """A first start without BUDGET_USD must tell what to do."""
    services = Services(Settings(budget_data_dir=tmp_path))
    try:
        with anyio.fail_after(20):
            async with Client(create_server(services)) as client:
                checked = await call(client, "check_budget")
    finally:
        await services.aclose()

    assert checked["balances"] == []
    assert "BUDGET_USD" in checked["hint"]


@pytest.mark.parametrize(
    ("used", "mark", "percent"),
    [
        ("0.49999999", None, 49),
        ("0.50", 50, 50),
        ("0.79999999", 50, 79),
        ("0.80", 80, 80),
        ("0.94999999", 80, 94),
        ("0.95", 95, 95),
        ("1", 95, 100),
    ],
)
async def test_a_budget_that_reaches_a_mark_is_warned_of(
    client: Client, used: str, mark: int | None, percent: int
) -> None:
    """README, Tools: the highest of 50, 80 and 95 %, to the microcent, in the structure and in the text."""
    held = await client.call_tool("reserve_budget", {"usd": used})
    assert held.structured_content is not None
    settled = await call(client, "commit_usage", reservation_id=held.structured_content["reservation_id"], usd=used)

    warning = f"tenant:local has reached the {mark} % mark: {percent} % of its 1.00 USD is used"
    expected = [] if mark is None else [warning]
    assert held.structured_content["warnings"] == settled["warnings"] == expected
    assert ("Warning:" in text_of(held)) == bool(expected)
    assert all(f"Warning: {each}." in text_of(held) for each in expected)


async def test_a_dry_run_and_a_denial_warn_of_nothing_that_is_not_so(client: Client) -> None:
    """A warning is about what is used, not about what was asked."""
    asked = await call(client, "reserve_budget", usd="0.90", dry_run=True)
    denied = await call(client, "reserve_budget", usd="1.10")

    assert asked["warnings"] == denied["warnings"] == []


async def test_reservations_are_listed_by_state_and_subject_page_by_page(client: Client) -> None:
    """Design, list_reservations: what is held, by whom, and what it became."""
    kept = await call(client, "reserve_budget", usd="0.01", action_name="kept", subject={"agent": "bot"})
    settled = await call(client, "reserve_budget", usd="0.02")
    await call(client, "commit_usage", reservation_id=settled["reservation_id"], usd="0.015")

    active = await client.call_tool("list_reservations", {"status": "ACTIVE"})
    committed = await call(client, "list_reservations", status="COMMITTED")
    of_the_bot = await call(client, "list_reservations", subject={"agent": "bot"})
    first = await call(client, "list_reservations", limit=1)
    rest = await call(client, "list_reservations", limit=1, cursor=first["next_cursor"])

    assert active.structured_content is not None
    (row,) = active.structured_content["reservations"]
    assert of_the_bot["reservations"] == [row]
    assert (row["reservation_id"], row["reserved"]["usd"], row["scope"]) == (
        kept["reservation_id"],
        "0.01",
        "tenant:local/agent:bot",
    )
    assert row["expires_at"] == kept["expires_at"]
    assert kept["reservation_id"] in text_of(active)
    assert "llm.completion kept" in text_of(active)
    assert [each["charged"]["usd"] for each in committed["reservations"]] == ["0.015"]
    assert [each["reservation_id"] for each in first["reservations"] + rest["reservations"]] == [
        settled["reservation_id"],
        kept["reservation_id"],
    ]
    assert rest["next_cursor"] == ""
