"""Call quotas: an embedded policy that a person sets; without one, nothing is counted."""

import pytest

from budget_server.authority import quotas
from budget_server.authority.ledger import Ledger
from budget_server.authority.quotas import Quota
from budget_server.authority.requests import ReserveRequest, parse
from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, ROOT, TENANT, Clock
from contract.local import EmbeddedAuthority

pytestmark = pytest.mark.anyio

KIND = "llm.completion"
MINUTE_MS, DAY_MS = 60_000, 86_400_000


@pytest.fixture(autouse=True)
def budget(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Money enough: only calls are scarce here. The clock stands at the start of a minute."""
    clock.now_ms -= clock.now_ms % DAY_MS
    authority.set_budget(ROOT, 1_000)


def set_quota(authority: EmbeddedAuthority, window: str, max_calls: int, scope: str = ROOT, kind: str = KIND) -> None:
    """Do what ``budget quota set`` does."""
    authority.run(lambda ledger: quotas.set_quota(ledger.db, "acme", Quota(scope, kind, window, max_calls)))


async def statuses(authority: EmbeddedAuthority, count: int, run_id: str = "") -> list[int]:
    """Reserve so many times."""
    subject = {**BOT, "dimensions": {"run_id": run_id}} if run_id else BOT
    return [(await authority.reserve(1, subject)).status for _ in range(count)]


@pytest.mark.parametrize(("window", "window_ms"), [("minute", MINUTE_MS), ("day", DAY_MS)])
async def test_so_many_calls_and_no_more_until_the_window_is_over(
    authority: EmbeddedAuthority, clock: Clock, window: str, window_ms: int
) -> None:
    """Cycles v0.1.26, action quotas: tumbling windows of the UTC calendar, counted at reserve."""
    set_quota(authority, window, 2)

    first = await statuses(authority, 3)
    clock.now_ms += window_ms - 1
    last_moment = await statuses(authority, 1)
    clock.now_ms += 1

    assert first == [200, 200, 409]
    assert last_moment == [409]
    assert await statuses(authority, 3) == [200, 200, 409]


async def test_a_denial_says_which_quota_and_when_to_come_again(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Cycles v0.1.26, DenyDetail: what an agent can act on."""
    set_quota(authority, "minute", 1)
    await authority.reserve(1)
    clock.now_ms += 20_000

    body = assert_refused(await authority.reserve(1), 409, "ACTION_QUOTA_EXCEEDED")

    detail = body["details"]["deny_detail"]
    assert detail["blocked_by_scope"] == ROOT
    assert detail["retry_after_ms"] == 40_000
    assert detail["quota_violation"] == {"action_kind": KIND, "window": "minute", "max_calls": 1, "calls": 1}
    assert "minute" in detail["suggested_fix"]
    assert await authority.amounts() == "999/1/0/0"


async def test_other_kinds_and_other_scopes_are_not_counted(authority: EmbeddedAuthority) -> None:
    """A quota is of one kind, below one scope."""
    set_quota(authority, "day", 1, scope=LEAF)
    await authority.reserve(1, BOT)

    assert (await authority.reserve(1, TENANT)).status == 200
    assert (await authority.reserve(1, BOT, action={"kind": "tool.call", "name": "t"})).status == 200
    assert_refused(await authority.reserve(1, BOT), 409, "ACTION_QUOTA_EXCEEDED")


async def test_the_root_is_asked_before_the_leaf(authority: EmbeddedAuthority) -> None:
    """As with budgets: the first failure from the root is the answer."""
    set_quota(authority, "day", 1, scope=LEAF)
    set_quota(authority, "day", 1, scope=ROOT)
    await authority.reserve(1, BOT)

    body = assert_refused(await authority.reserve(1, BOT), 409, "ACTION_QUOTA_EXCEEDED")

    assert body["details"]["deny_detail"]["blocked_by_scope"] == ROOT


async def test_a_call_that_budget_denies_is_not_counted(authority: EmbeddedAuthority) -> None:
    """Quotas come before budgets, and a refused reserve leaves no trace."""
    set_quota(authority, "day", 1)

    assert_refused(await authority.reserve(2_000), 409, "BUDGET_EXCEEDED")

    assert await statuses(authority, 2) == [200, 409]


async def test_asking_counts_nothing_and_is_told_no(authority: EmbeddedAuthority) -> None:
    """Decide and dry run evaluate as if it were live."""
    set_quota(authority, "minute", 1)
    for _ in range(3):
        assert body_of(await authority.decide(1))["decision"] == "ALLOW"
        assert body_of(await authority.reserve(1, dry_run=True))["decision"] == "ALLOW"
    await authority.reserve(1)

    for denied in (await authority.decide(1), await authority.reserve(1, dry_run=True)):
        body = body_of(denied)
        assert (body["decision"], body["reason_code"]) == ("DENY", "ACTION_QUOTA_EXCEEDED")
        assert body["retry_after_ms"] == MINUTE_MS


async def test_a_repeated_reserve_is_counted_once(authority: EmbeddedAuthority) -> None:
    """A replay is the same call."""
    set_quota(authority, "day", 2)

    assert [(await authority.reserve(1, key="k")).status for _ in range(5)] == [200] * 5
    assert await statuses(authority, 2) == [200, 409]


async def test_each_run_has_its_own_count(authority: EmbeddedAuthority) -> None:
    """Cycles v0.1.26: per_run is keyed by dimensions.run_id."""
    set_quota(authority, "run", 2)

    assert await statuses(authority, 3, "a") == [200, 200, 409]
    assert await statuses(authority, 3, "b") == [200, 200, 409]


async def test_without_a_run_id_a_quota_per_run_cannot_be_kept(authority: EmbeddedAuthority) -> None:
    """Cycles v0.1.26: 400 rather than a quota that is walked around."""
    set_quota(authority, "run", 2)

    body = assert_refused(await authority.reserve(1, BOT), 400, "INVALID_REQUEST")

    assert "dimensions.run_id" in body["message"]


async def test_a_run_gets_back_what_it_did_not_use_and_nothing_of_what_it_did(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """Cycles v0.1.26: release and expiry take one off a run's count, a commit keeps it, and so does a charge."""
    set_quota(authority, "run", 1)
    subject = {**BOT, "dimensions": {"run_id": "r"}}

    await authority.release(await authority.reserved(1, subject))
    await authority.reserved(1, subject, ttl_ms=1_000, grace_period_ms=0)
    clock.now_ms += 1_001
    committed = await authority.reserved(1, subject)
    await authority.commit(committed, 1)

    assert await statuses(authority, 1, "r") == [409]


async def test_a_minute_keeps_what_was_released(authority: EmbeddedAuthority) -> None:
    """A rate is of calls made, not of calls paid for."""
    set_quota(authority, "minute", 1)
    await authority.release(await authority.reserved(1))

    assert_refused(await authority.reserve(1), 409, "ACTION_QUOTA_EXCEEDED")


async def test_a_call_that_was_withdrawn_was_never_made(authority: EmbeddedAuthority) -> None:
    """Nobody heard of it, so nothing of it is left: not in a run, and not in a minute."""
    set_quota(authority, "minute", 1)
    request = parse(ReserveRequest, authority.intent(1))

    def reserve_and_withdraw(ledger: Ledger) -> None:
        ledger.withdraw("acme", request, ledger.reserve("acme", request))

    authority.run(reserve_and_withdraw)

    assert await statuses(authority, 2) == [200, 409]


async def test_counts_of_windows_that_are_over_are_forgotten(authority: EmbeddedAuthority, clock: Clock) -> None:
    """No table grows without end."""
    set_quota(authority, "minute", 5)
    for _ in range(10):
        await authority.reserve(1)
        clock.now_ms += MINUTE_MS

    assert authority.sql("SELECT count(*) <= 2 FROM quota_counts") == [(1,)]


async def test_a_quota_that_is_removed_counts_no_more(authority: EmbeddedAuthority) -> None:
    """Off again, and it starts from nothing when it is set again."""
    set_quota(authority, "day", 1)
    await authority.reserve(1)
    authority.run(lambda ledger: quotas.remove_quota(ledger.db, "acme", scope=ROOT, action_kind=KIND, window="day"))

    assert await statuses(authority, 2) == [200, 200]
    set_quota(authority, "day", 1)
    assert await statuses(authority, 2) == [200, 409]
