"""People set budgets on the command line, beside servers that are running."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import apsw
import pytest
from mcp import Client

from budget_server.config.paths import LEDGER_FILE
from hosting import Environment, call, complaint_of, ledger_balance, run_program

pytestmark = pytest.mark.anyio


def budget(environment: Environment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``cycles-budget-mcp budget …``."""
    return run_program(environment, "budget", *arguments)


async def test_funding_reaches_a_running_server(host: Callable[..., Client], environment: Environment) -> None:
    """A budget that ran out can be raised without a restart."""
    with anyio.fail_after(60):
        async with host() as client:
            denied = await call(client, "reserve_budget", usd="1.50")
            funded = await anyio.to_thread.run_sync(budget, environment, "fund", "1.00")
            allowed = await call(client, "reserve_budget", usd="1.50")

    assert (denied["decision"], allowed["decision"]) == ("DENY", "ALLOW")
    assert funded.returncode == 0
    assert "$2.00" in funded.stdout
    assert ledger_balance(environment)["allocated"] == 200_000_000


async def test_a_frozen_budget_denies_with_its_reason_until_it_is_unfrozen(
    host: Callable[..., Client], environment: Environment
) -> None:
    """Cycles v0, BUDGET_FROZEN: nothing new is reserved, and what is held can still be settled."""
    with anyio.fail_after(60):
        async with host() as client:
            held = await call(client, "reserve_budget", usd="0.10")
            await anyio.to_thread.run_sync(budget, environment, "freeze")
            denied = await call(client, "reserve_budget", usd="0.10")
            settled = await call(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.10")
            await anyio.to_thread.run_sync(budget, environment, "unfreeze")
            allowed = await call(client, "reserve_budget", usd="0.10")

    assert (denied["decision"], denied["reason_code"]) == ("DENY", "BUDGET_FROZEN")
    assert settled["status"] == "COMMITTED"
    assert allowed["decision"] == "ALLOW"


async def test_a_scope_of_its_own_limits_its_agent_within_the_tenant(
    host: Callable[..., Client], environment: Environment
) -> None:
    """Cycles v0, SCOPE DERIVATION: every scope with a budget must bear a reservation."""
    budget(environment, "allocate", "0.05", "--scope", "tenant:local/agent:Bot")

    with anyio.fail_after(60):
        async with host() as client:
            denied = await call(client, "reserve_budget", usd="0.06", subject={"agent": "bot"})
            allowed = await call(client, "reserve_budget", usd="0.04", subject={"agent": "bot"})
            others = await call(client, "reserve_budget", usd="0.06")

    assert denied["decision"] == "DENY"
    assert denied["remaining"]["usd"] == "0.05"
    assert allowed["affected_scopes"] == ["tenant:local", "tenant:local/agent:bot"]
    assert others["decision"] == "ALLOW"


def test_what_is_shown_is_what_the_ledger_holds(environment: Environment) -> None:
    """Units beside each other, dollars only for money."""
    budget(environment, "allocate", "5000", "--unit", "TOKENS")

    shown = budget(environment, "show")

    assert shown.returncode == 0
    assert "5000 TOKENS" in shown.stdout
    assert "$1.00" in shown.stdout


def test_a_budget_may_have_a_period_a_debt_and_caps(environment: Environment) -> None:
    """All that a person may ask of a budget, and each stays until it is said anew."""
    environment["BUDGET_TIME_ZONE"] = "Pacific/Kiritimati"
    budget(environment, "allocate", "3", "--period", "week", "--overdraft-limit", "0.50")

    shown = budget(environment, "allocate", "4", "--caps", '{"max_tokens": 900, "tool_allowlist": []}')

    text = " ".join(shown.stdout.split())
    assert "$4.00" in text
    assert "per week, anew" in text
    assert "may owe $0.50" in text
    assert 'caps {"max_tokens":900}' in text


def test_a_first_budget_may_start_anew_with_every_day(environment: Environment) -> None:
    """BUDGET_PERIOD is for a first start; a later one says that it changes nothing."""
    environment["BUDGET_PERIOD"] = "day"
    first = budget(environment, "show")
    environment["BUDGET_PERIOD"] = "month"
    later = budget(environment, "show")

    assert "per day" in first.stdout
    assert first.stderr == ""
    assert "per day" in later.stdout
    assert "BUDGET_USD=1.00 per month is ignored" in later.stderr


async def test_a_quota_denies_with_its_reason(host: Callable[..., Client], environment: Environment) -> None:
    """A cap on calls, for work whose danger is not its price; the host's model learns whose it is, and until when."""
    said = budget(environment, "quota", "set", "message.email", "1", "--per", "day")

    with anyio.fail_after(60):
        async with host() as client:
            allowed = await call(client, "reserve_budget", usd="0.01", action_kind="message.email")
            denied = await call(client, "reserve_budget", usd="0.01", action_kind="message.email")
            removed = await anyio.to_thread.run_sync(
                budget, environment, "quota", "remove", "message.email", "--per", "day"
            )
            again = await call(client, "reserve_budget", usd="0.01", action_kind="message.email")

    assert (said.returncode, removed.returncode) == (0, 0)
    assert (allowed["decision"], denied["decision"], again["decision"]) == ("ALLOW", "DENY", "ALLOW")
    assert denied["reason_code"] == "ACTION_QUOTA_EXCEEDED"
    assert denied["blocked_by_scope"] == "tenant:local"
    assert 0 < denied["retry_after_ms"] <= 86_400_000


async def test_a_denial_names_the_scope_and_what_would_help(
    host: Callable[..., Client], environment: Environment
) -> None:
    """The authority's own words reach the host's model: whose budget, and how much would still fit."""
    budget(environment, "allocate", "0.05", "--scope", "tenant:local/agent:bot")

    with anyio.fail_after(60):
        async with host() as client:
            denied = await call(client, "reserve_budget", usd="0.06", subject={"agent": "bot"})

    assert denied["blocked_by_scope"] == "tenant:local/agent:bot"
    assert "Reserve at most $0.05" in denied["hint"]


def test_check_tells_a_sound_ledger_from_a_broken_one(environment: Environment, tmp_path: Path) -> None:
    """Exit code 0, 1 or 2: sound, not sound, no ledger."""
    budget(environment, "show")
    ledger = Path(environment["BUDGET_DATA_DIR"]) / LEDGER_FILE

    sound = run_program(environment, "check")
    db = apsw.Connection(str(ledger))
    db.execute("UPDATE budgets SET spent = 1, remaining = remaining - 1")
    db.close()
    broken = run_program(environment, "check", str(ledger))
    (tmp_path / "text").write_text("no ledger" * 1_000, encoding="utf-8")
    foreign = run_program(environment, "check", str(tmp_path / "text"))
    absent = run_program(environment, "check", str(tmp_path / "nothing"))

    assert (sound.returncode, broken.returncode, foreign.returncode, absent.returncode) == (0, 1, 2, 2)
    assert "is sound: 1 budgets" in sound.stdout
    assert "tenant:local in USD_MICROCENTS has 1 spent and owed since its beginning" in broken.stdout
    assert "cannot be read as a ledger" in foreign.stderr
    assert "There is no ledger" in absent.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("allocate", "-5"), ""),
        (("allocate", "five"), "The amount must be US dollars"),
        (("fund", "1.5", "--unit", "TOKENS"), "whole number of TOKENS"),
        (("fund", "99999999999999999999", "--unit", "TOKENS"), "whole number of TOKENS"),
        (("fund", "5", "--unit", "EUR"), "unit must be one of"),
        (("fund", "92233720368.54775807"), "cannot hold so much"),
        (("fund", "1", "--scope", "tenant:local/agent:none"), "allocate one first"),
        (("allocate", "1", "--scope", "agent:bot"), "not below a tenant"),
        (("allocate", "1", "--scope", "tenant:local/agent:a/app:b"), "in the order"),
        (("allocate", "1", "--scope", "tenant:local/agent"), "level:value"),
        (("freeze", "--unit", "TOKENS"), "has no budget in TOKENS"),
        (("allocate", "1", "--period", "hour"), "--period must be one of"),
        (("allocate", "1", "--overdraft-limit", "-1"), "--overdraft-limit must not be negative"),
        (("allocate", "1", "--caps", "no json"), "The caps must be JSON"),
        (("allocate", "1", "--caps", '{"max_tokns": 1}'), "max_tokns"),
        (("quota", "set", "llm.completion", "5", "--per", "hour"), "--per must be one of"),
        (("quota", "set", "llm.completion", "0", "--per", "day"), ""),
        (("quota", "remove", "llm.completion", "--per", "day"), "has no quota"),
    ],
)
def test_a_wrong_change_is_one_sentence_and_changes_nothing(
    environment: Environment, arguments: tuple[str, ...], says: str
) -> None:
    """Bad input: what is wrong, where, what to do."""
    budget(environment, "show")
    before = ledger_balance(environment)

    ended = budget(environment, *arguments)

    assert ended.returncode == 2
    assert says in " ".join(ended.stderr.split())
    assert ledger_balance(environment) == before


async def test_less_than_is_in_use_cannot_be_allocated(host: Callable[..., Client], environment: Environment) -> None:
    """An allocation below what was spent and held would say that money was never there."""
    with anyio.fail_after(60):
        async with host() as client:
            await call(client, "reserve_budget", usd="0.60")
            line = await anyio.to_thread.run_sync(complaint_of, environment, "budget", "allocate", "0.50")

    assert "60000000" in line
    assert ledger_balance(environment)["allocated"] == 100_000_000


def test_a_closed_budget_stays_closed(environment: Environment) -> None:
    """Closing is for good, so it is asked for twice."""
    unasked = budget(environment, "close")
    closed = budget(environment, "close", "--yes")

    assert unasked.returncode != 0
    assert closed.returncode == 0
    for change in (["unfreeze"], ["fund", "1"], ["allocate", "9"], ["allocate", "9", "--period", "day"]):
        assert "closed, which is for good" in complaint_of(environment, "budget", *change)


def test_budgets_of_a_cycles_server_are_set_there(environment: Environment) -> None:
    """Two places to set one budget would be one too many."""
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "k", "CYCLES_TENANT": "acme"}

    assert "CYCLES_BASE_URL is set" in complaint_of(environment, "budget", "show")


async def test_what_was_not_covered_is_shown_until_it_is_cleared(
    host: Callable[..., Client], environment: Environment
) -> None:
    """In `budget show` and in `check`, whatever is funded; clearing it moves no money."""
    with anyio.fail_after(60):
        async with host() as client:
            await call(client, "record_usage", usd="1.95")
    budget(environment, "fund", "4")

    shown, checked = budget(environment, "show"), run_program(environment, "check")
    before = ledger_balance(environment)
    cleared = budget(environment, "clear")
    shown_after, checked_after = budget(environment, "show"), run_program(environment, "check")
    again = budget(environment, "clear")

    assert "tenant:local in USD_MICROCENTS: $0.95 was spent and not covered, until `budget clear`" in shown.stdout
    assert "$0.95 was spent on tenant:local that no budget covered" in checked.stdout
    assert (checked.returncode, checked_after.returncode) == (0, 0)
    assert "Cleared: $0.95 that tenant:local could not cover." in cleared.stdout
    assert "Cleared: $0.00" in again.stdout
    assert "0.95" not in shown_after.stdout + checked_after.stdout
    assert ledger_balance(environment) == before


async def test_the_command_that_clears_a_narrower_budget_is_said_whole(
    host: Callable[..., Client], environment: Environment
) -> None:
    """Typed as it is written, it clears that budget and not the tenant's."""
    budget(environment, "allocate", "0.10", "--scope", "tenant:local/agent:bot")
    with anyio.fail_after(60):
        async with host() as client:
            booked = await call(client, "record_usage", usd="0.30", subject={"agent": "bot"})
    command = ("budget", "clear", "--scope", "tenant:local/agent:bot")
    shown, checked = budget(environment, "show"), run_program(environment, "check")
    run_program(environment, *command)

    assert f"`cycles-budget-mcp {' '.join(command)}`" in booked["warnings"][-1]
    assert f"`{' '.join(command)}`" in shown.stdout
    assert f"`{' '.join(command)}`" in checked.stdout
    assert "agent:bot in USD" not in budget(environment, "show").stdout


def test_clearing_names_a_budget_that_is_there(environment: Environment) -> None:
    """A typing error clears nothing."""
    assert "has no budget in TOKENS" in complaint_of(environment, "budget", "clear", "--unit", "TOKENS")
