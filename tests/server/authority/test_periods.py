"""Budgets that start anew by the day, week or month, in their owner's time zone, exactly once."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budget_server.authority import budgets
from budget_server.authority.audit import audit
from budget_server.authority.ledger import Ledger
from budget_server.authority.periods import PERIODS, period_end_ms
from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, ROOT, Clock
from contract.local import EmbeddedAuthority, opened

pytestmark = pytest.mark.anyio

BERLIN = "Europe/Berlin"
EVENING_MS = int(datetime(2026, 11, 24, 21, 0, tzinfo=ZoneInfo(BERLIN)).timestamp()) * 1_000
HOUR_MS = 3_600_000
MIDNIGHT_MS = EVENING_MS + 3 * HOUR_MS
DAY_MS = 24 * HOUR_MS

Figures = tuple[int, int, int]
"""What a period left behind: its end, what was spent in it, what was owed at its end."""

ZONES = ["UTC", BERLIN, "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Pacific/Apia",
         "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo"]  # fmt: skip
"""Zones that skip midnight, repeat it, skipped a whole day, or keep odd offsets."""


@pytest.fixture
def clock() -> Clock:
    """An evening in Berlin."""
    return Clock(EVENING_MS)


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedAuthority]:
    """An authority whose root has 100 tokens a day; audited by the tests themselves."""
    with opened(tmp_path / "ledger.db", clock) as subject:
        set_daily(subject, ROOT, 100)
        yield subject
        assert audit(subject.path, 2**62).findings == []


def set_daily(authority: EmbeddedAuthority, scope: str, amount: int, *, overdraft_limit: int = 0) -> None:
    """Allocate so many tokens a day, as a person would."""

    def change(ledger: Ledger) -> None:
        budgets.allocate(ledger.db, scope=scope, tenant="acme", unit="TOKENS", amount=amount)
        budgets.limit_debt(ledger.db, scope=scope, unit="TOKENS", overdraft_limit=overdraft_limit)
        budgets.set_period(ledger.db, scope=scope, unit="TOKENS", period="day", time_zone=BERLIN, now_ms=ledger.now_ms)

    authority.run(change)


def ended(authority: EmbeddedAuthority, scope: str = ROOT) -> list[Figures]:
    """Read what periods have left behind."""
    return [
        (end_ms, spent, debt)
        for end_ms, spent, debt in authority.sql(
            "SELECT end_ms, spent, debt FROM ended_periods WHERE scope = ? ORDER BY end_ms", scope
        )
    ]


# -- where a period ends ----------------------------------------------------------------------------------------------

moments = st.integers(0, 4_102_444_800_000)


@given(period=st.sampled_from(PERIODS[1:]), zone=st.sampled_from(ZONES), at_ms=moments)
@example(period="day", zone="Pacific/Apia", at_ms=int(datetime(2011, 12, 30, 5, tzinfo=UTC).timestamp()) * 1_000)
@example(period="day", zone="America/Sao_Paulo", at_ms=int(datetime(2018, 11, 4, 2, tzinfo=UTC).timestamp()) * 1_000)
@example(period="day", zone="America/Havana", at_ms=int(datetime(2026, 11, 1, 4, 30, tzinfo=UTC).timestamp()) * 1_000)
def test_a_period_ends_with_the_first_moment_of_another_one(period: str, zone: str, at_ms: int) -> None:
    """The calendar: until the end it is one period, from the end on the next, whatever the clocks do there."""
    end_ms = period_end_ms(period, zone, at_ms)

    assert end_ms is not None
    assert end_ms > at_ms
    assert name_of(period, zone, end_ms - 1) == name_of(period, zone, at_ms)
    assert name_of(period, zone, end_ms) != name_of(period, zone, at_ms)


def name_of(period: str, zone: str, at_ms: int) -> object:
    """Name the day, week or month that a moment lies in."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    day = moment.astimezone(ZoneInfo(zone)).date()
    names: dict[str, object] = {"day": day, "week": day.isocalendar()[:2], "month": (day.year, day.month)}
    return names[period]


@pytest.mark.parametrize(
    ("period", "day", "ends"),
    [
        ("day", date(2026, 3, 28), datetime(2026, 3, 28, 23, tzinfo=UTC)),  # 24 h before the clocks go forward
        ("day", date(2026, 3, 29), datetime(2026, 3, 29, 22, tzinfo=UTC)),  # a day of 23 h
        ("day", date(2026, 10, 25), datetime(2026, 10, 25, 23, tzinfo=UTC)),  # a day of 25 h
        ("week", date(2026, 11, 24), datetime(2026, 11, 29, 23, tzinfo=UTC)),
        ("month", date(2026, 12, 31), datetime(2026, 12, 31, 23, tzinfo=UTC)),
    ],
)
def test_days_follow_the_clocks_of_their_zone(period: str, day: date, ends: datetime) -> None:
    """DST: a day lasts from midnight to midnight, be it 23 or 25 hours."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(BERLIN))

    assert period_end_ms(period, BERLIN, int(noon.timestamp()) * 1_000) == int(ends.timestamp()) * 1_000


# -- what starting anew does ------------------------------------------------------------------------------------------


async def test_until_midnight_it_is_spent_and_from_midnight_on_it_is_there_again(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """A period ends at its boundary, to the millisecond, and leaves its figures behind."""
    await authority.event(100)
    clock.now_ms = MIDNIGHT_MS - 1
    assert_refused(await authority.reserve(1), 409, "BUDGET_EXCEEDED")

    clock.now_ms = MIDNIGHT_MS

    assert await authority.amounts() == "100/0/0/0"
    assert (await authority.reserve(100)).status == 200
    assert ended(authority) == [(MIDNIGHT_MS, 100, 0)]


async def test_what_is_held_over_midnight_stays_held_and_counts_when_it_is_spent(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """Money is spent in the period in which it is committed."""
    reservation_id = await authority.reserved(40, ttl_ms=3_600_000, grace_period_ms=60_000)
    await authority.event(10)
    await authority.extend(reservation_id, DAY_MS)

    clock.now_ms = MIDNIGHT_MS
    assert await authority.amounts() == "60/40/0/0"
    await authority.commit(reservation_id, 30)

    assert await authority.amounts() == "70/0/30/0"
    assert ended(authority) == [(MIDNIGHT_MS, 10, 0)]


async def test_a_debt_is_repaid_from_the_new_period_first(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Cycles v0, Balance: when budget is added, debt is repaid first; over its limit no more, once it is."""
    set_daily(authority, ROOT, 100, overdraft_limit=250)
    await authority.event(350, overage_policy="ALLOW_WITH_OVERDRAFT")
    assert await authority.amounts() == "-250/0/100/250"

    balances = []
    for day in range(4):
        clock.now_ms = MIDNIGHT_MS + day * DAY_MS
        balances.append(await authority.amounts())

    assert balances == ["-150/0/100/150", "-50/0/100/50", "50/0/50/0", "100/0/0/0"]


async def test_days_on_which_nobody_looked_are_made_up_for_one_by_one(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """What a daemon would have done at each midnight is done by whoever comes first."""
    set_daily(authority, ROOT, 100, overdraft_limit=250)
    await authority.event(350, overage_policy="ALLOW_WITH_OVERDRAFT")

    clock.now_ms = MIDNIGHT_MS + 10 * DAY_MS

    assert await authority.amounts() == "100/0/0/0"
    assert [spent for _, spent, _ in ended(authority)] == [100, 100, 100, 50]


async def test_a_lease_that_ran_out_yesterday_is_charged_to_yesterday(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """Expiry and boundary take effect in the order of time, however late somebody looks."""
    await authority.reserved(40, ttl_ms=1_000, metadata={"on_expiry": "charge"})

    clock.now_ms = MIDNIGHT_MS + HOUR_MS

    assert await authority.amounts() == "100/0/0/0"
    assert ended(authority) == [(MIDNIGHT_MS, 40, 0)]


@pytest.mark.parametrize(
    ("after_midnight_ms", "today", "yesterday"), [(-1, "100/0/0/0", [(MIDNIGHT_MS, 40, 0)]), (0, "60/0/40/0", [])]
)
async def test_the_day_of_a_lease_is_that_of_its_last_moment(
    authority: EmbeddedAuthority,
    clock: Clock,
    after_midnight_ms: int,
    today: str,
    yesterday: list[tuple[int, int, int]],
) -> None:
    """To the millisecond, for the charge and for the commit that replaces it."""
    ends_ms = MIDNIGHT_MS + after_midnight_ms
    clock.now_ms = ends_ms - 1_001
    reservation_id = await authority.reserved(40, ttl_ms=1_000, grace_period_ms=0, metadata={"on_expiry": "charge"})

    clock.now_ms = MIDNIGHT_MS + HOUR_MS
    assert await authority.amounts() == today
    assert ended(authority) == yesterday
    await authority.commit(reservation_id, 0)

    assert await authority.amounts() == "100/0/0/0"
    assert ended(authority) == [(end_ms, 0, debt) for end_ms, _, debt in yesterday]


async def test_a_day_that_only_made_debt_is_written_down_too(authority: EmbeddedAuthority, clock: Clock) -> None:
    """What was owed at the end of a day is part of its figures."""
    set_daily(authority, ROOT, 0, overdraft_limit=50)
    await authority.event(10, overage_policy="ALLOW_WITH_OVERDRAFT")

    clock.now_ms = MIDNIGHT_MS

    assert await authority.amounts() == "-10/0/0/10"
    assert ended(authority) == [(MIDNIGHT_MS, 0, 10)]


@pytest.mark.parametrize(("actual", "now", "yesterday"), [(15, "100/0/0/0", 15), (40, "100/0/0/0", 40),
                                                         (55, "85/0/15/0", 40)])  # fmt: skip
async def test_a_commit_that_comes_after_the_period_corrects_the_period_it_belongs_to(
    authority: EmbeddedAuthority, clock: Clock, actual: int, now: str, yesterday: int
) -> None:
    """A provisional charge is replaced where it was made; only what exceeds it is charged today."""
    reservation_id = await authority.reserved(40, ttl_ms=1_000, metadata={"on_expiry": "charge"})
    clock.now_ms = MIDNIGHT_MS + HOUR_MS

    body = body_of(await authority.commit(reservation_id, actual))

    assert body["charged"]["amount"] == actual
    assert await authority.amounts() == now
    assert ended(authority) == [(MIDNIGHT_MS, yesterday, 0)]


async def test_scopes_start_anew_each_for_itself(authority: EmbeddedAuthority, clock: Clock) -> None:
    """A budget without a period goes on, and a late commit is right on both."""
    authority.set_budget(LEAF, 200)
    reservation_id = await authority.reserved(40, BOT, ttl_ms=1_000, metadata={"on_expiry": "charge"})
    clock.now_ms = MIDNIGHT_MS

    assert await authority.amounts(LEAF) == "160/0/40/0"
    await authority.commit(reservation_id, 15)

    assert await authority.amounts(ROOT) == "100/0/0/0"
    assert await authority.amounts(LEAF) == "185/0/15/0"
    assert ended(authority, LEAF) == []


async def test_a_clock_set_back_over_midnight_ends_nothing_twice(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Time never runs backwards within a ledger."""
    await authority.event(60)
    clock.now_ms = MIDNIGHT_MS
    await authority.event(30)

    for now_ms in (EVENING_MS, MIDNIGHT_MS + 1):
        clock.now_ms = now_ms
        assert await authority.amounts() == "70/0/30/0"

    assert ended(authority) == [(MIDNIGHT_MS, 60, 0)]


async def test_a_closed_budget_starts_no_period(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Closing is for good."""
    await authority.event(60)
    authority.run(lambda ledger: budgets.set_status(ledger.db, scope=ROOT, unit="TOKENS", status="CLOSED"))

    clock.now_ms = MIDNIGHT_MS

    assert await authority.amounts() == "40/0/60/0"


async def test_another_period_keeps_what_was_spent_in_this_one(authority: EmbeddedAuthority, clock: Clock) -> None:
    """From day to month: today's spending is the month's."""
    await authority.event(60)

    authority.run(
        lambda ledger: budgets.set_period(
            ledger.db, scope=ROOT, unit="TOKENS", period="month", time_zone=BERLIN, now_ms=ledger.now_ms
        )
    )

    clock.now_ms = MIDNIGHT_MS
    assert await authority.amounts() == "40/0/60/0"
    clock.now_ms = int(datetime(2026, 12, 1, tzinfo=ZoneInfo(BERLIN)).timestamp()) * 1_000
    assert await authority.amounts() == "100/0/0/0"
