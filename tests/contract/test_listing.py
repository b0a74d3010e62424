"""Reading: pages of reservations, and balances."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from runcycles import models as wire

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, NOON_MS, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio

NOON = datetime.fromtimestamp(NOON_MS / 1000, UTC)


def at(offset_ms: int) -> str:
    """Write an instant after noon as ISO-8601."""
    return datetime.fromtimestamp((NOON_MS + offset_ms) / 1000, UTC).isoformat(timespec="milliseconds")


async def ids(authority: Authority, **query: str) -> list[str]:
    """List and give the ids."""
    return [row["reservation_id"] for row in body_of(await authority.list(**query))["reservations"]]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize(
    "sort_by", ["reservation_id", "tenant", "scope_path", "status", "reserved", "created_at_ms", "expires_at_ms"]
)
async def test_three_pages_show_every_reservation_once_in_order(
    authority: Authority, sort_by: str, direction: str
) -> None:
    """Cycles v0, listReservations: every sort key in both directions, ties broken by id."""
    authority.set_budget(ROOT, 1_000)
    for number in range(24):
        if authority.has("clock"):  # elsewhere time passes by itself
            authority.clock.now_ms += number % 3
        reservation_id = await authority.reserved(number % 5, BOT if number % 2 else TENANT, ttl_ms=60_000 + number % 4)
        if number % 4 == 0:
            await authority.release(reservation_id)
    rows: list[dict[str, Any]] = []
    query = {"limit": "10", "sort_by": sort_by, "sort_dir": direction}
    pages = 0
    cursor: dict[str, str] = {}
    while pages < 5:
        body = body_of(await authority.list(**query, **cursor))
        rows += body["reservations"]
        pages += 1
        assert body["has_more"] == ("next_cursor" in body)
        if not body["has_more"]:
            break
        cursor = {"cursor": body["next_cursor"]}

    def key(row: dict[str, Any]) -> Any:
        if sort_by == "tenant":
            return row["subject"]["tenant"]
        return row["reserved"]["amount"] if sort_by == "reserved" else row[sort_by]

    assert pages == 3
    assert len({row["reservation_id"] for row in rows}) == len(rows) == 24
    by_id = sorted(rows, key=lambda row: str(row["reservation_id"]))
    assert rows == sorted(by_id, key=key, reverse=direction == "desc")


async def test_without_a_word_the_newest_come_first_fifty_at_a_time(authority: Authority) -> None:
    """Cycles v0, listReservations: created_at_ms desc, limit 50."""
    authority.require("default order")
    authority.set_budget(ROOT, 100)
    made = []
    for _ in range(51):
        authority.clock.now_ms += 1
        made.append(await authority.reserved(1))

    body = body_of(await authority.list())

    assert [row["reservation_id"] for row in body["reservations"]] == made[:0:-1]
    assert body["has_more"] is True


async def test_a_cursor_belongs_to_its_filter_and_order_but_not_to_what_is_included(authority: Authority) -> None:
    """Cycles v0, listReservations: reuse with another filter or sort is a 400."""
    authority.require("default order")
    authority.set_budget(ROOT, 100)
    for _ in range(3):
        await authority.reserved(1)
    cursor = body_of(await authority.list(limit="2"))["next_cursor"]

    for query in ({"status": "ACTIVE"}, {"sort_by": "reserved"}, {"sort_dir": "asc"}, {"from": at(0)}):
        assert_refused(await authority.list(limit="2", cursor=cursor, **query), 400, "INVALID_REQUEST")
    assert len(await ids(authority, limit="2", cursor=cursor, include="metadata")) == 1
    assert len(await ids(authority, limit="1", cursor=cursor, tenant="acme")) == 1


def crafted(cursor: str, value: object, reservation_id: object) -> str:
    """Forge a cursor that claims the fingerprint of a real one."""
    fingerprint = json.loads(base64.urlsafe_b64decode(cursor + "==="))[0]
    return base64.urlsafe_b64encode(json.dumps([fingerprint, value, reservation_id]).encode()).decode()


async def test_a_cursor_that_was_never_given_is_refused(authority: Authority) -> None:
    """Cycles v0, listReservations: opaque, and checked."""
    authority.require("default order")
    authority.set_budget(ROOT, 100)
    for _ in range(3):
        await authority.reserved(1)
    real = body_of(await authority.list(limit="2"))["next_cursor"]
    nonsense = ["x", "!!!", "é", "NQ", "W10", "eyJhIjoxfQ", "9" * 5_000]
    forged = [crafted(real, 2**80, "a"), crafted(real, None, "a"), crafted(real, 1, 2), crafted(real, "\ud800", "a")]
    for cursor in (*nonsense, *forged):
        assert_refused(await authority.list(limit="2", cursor=cursor), 400, "INVALID_REQUEST")


async def test_reservations_are_found_by_what_they_are(authority: Authority) -> None:
    """Cycles v0, listReservations: filters are ANDed; a level matches a whole segment, in any case."""
    authority.set_budget(ROOT, 100)
    one = await authority.reserved(1, {"tenant": "acme", "workspace": "W", "agent": "bot"}, key="k1")
    two = await authority.reserved(2, {"tenant": "acme", "agent": "bot2"}, key="k2")
    three = await authority.reserved(3, {"tenant": "acme", "agent": "my-agent"}, key="k3")
    await authority.release(two)

    assert await ids(authority, idempotency_key="k2") == [two]
    assert await ids(authority, status="RELEASED") == [two]
    assert set(await ids(authority, status="ACTIVE")) == {one, three}
    assert await ids(authority, agent="bot") == [one]
    assert await ids(authority, agent="BOT", workspace="w") == [one]
    assert await ids(authority, agent="bot", status="RELEASED") == []


async def test_a_level_that_is_blank_matches_nothing(authority: Authority) -> None:
    """Cycles v0, listReservations: only the bounds of a window count as unset where they are blank."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(1, BOT)

    assert await ids(authority, agent="") == []
    assert body_of(await authority.balances(tenant="acme", agent=""))["balances"] == []
    assert await ids(authority, **{"from": "", "to": "", "expires_from": "", "finalized_to": ""}) == [reservation_id]
    if authority.has("blank tenant"):
        assert_refused(await authority.list(tenant=""), 403, "FORBIDDEN")


async def test_reservations_are_found_by_when_they_were(authority: Authority) -> None:
    """Cycles v0, listReservations: windows are inclusive; what has no finalized time drops out of that window."""
    authority.set_budget(ROOT, 100)
    early = await authority.reserved(1, ttl_ms=1_000)
    authority.clock.now_ms += 2_000
    late = await authority.reserved(1, ttl_ms=60_000)
    authority.clock.now_ms += 10_000
    await authority.commit(late, 1)

    assert await ids(authority, **{"from": at(2_000)}) == [late]
    assert await ids(authority, **{"from": at(2_001)}) == []
    assert await ids(authority, to=at(1_999)) == [early]
    assert await ids(authority, expires_from=at(1_000), expires_to=at(1_000)) == [early]
    assert await ids(authority, finalized_from=at(0)) == [late]
    assert await ids(authority, finalized_to=at(11_999)) == []
    assert len(await ids(authority, **{"from": "", "to": " "})) == 2
    assert await ids(authority, **{"from": at(2_000).replace("+00:00", "Z")}) == [late]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "active"},
        {"status": "FOO"},
        {"status": ""},
        {"sort_by": ""},
        {"sort_dir": ""},
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 257},
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "-1"},
        {"limit": "5.0"},
        {"limit": "٣"},
        {"limit": "9" * 5_000},
        {"sort_by": "subject"},
        {"sort_dir": "up"},
        {"from": "yesterday"},
        {"from": "2026-11-23T10:00:00"},
        {"from": at(2), "to": at(1)},
        {"expires_from": at(2), "expires_to": at(1)},
        {"finalized_from": at(2), "finalized_to": at(1)},
    ],
)
async def test_a_filter_that_cannot_be_is_refused_by_name(authority: Authority, query: dict[str, str]) -> None:
    """Cycles v0, listReservations: 400, never an empty page."""
    if not query.get("limit", "0").isascii() or len(query.get("limit", "0")) > 2:
        authority.require("strict limits")
    if "idempotency_key" in query:
        authority.require("key bounds")
    authority.assert_invalid(await authority.list(**query), next(iter(query)))


async def test_a_list_carries_metadata_where_it_is_asked_for(authority: Authority) -> None:
    """Cycles v0, listReservations.include: unknown tokens are ignored."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(1, metadata={"a": 1})
    await authority.commit(reservation_id, 1, metadata={"b": 2})

    (bare,) = body_of(await authority.list())["reservations"]
    (with_one,) = body_of(await authority.list(include="metadata,foo,,"))["reservations"]
    (with_both,) = body_of(await authority.list(include="committed_metadata, metadata"))["reservations"]

    assert "metadata" not in bare
    assert "committed_metadata" not in bare
    assert bare["committed"] == {"unit": "TOKENS", "amount": 1}
    assert with_one == {**bare, "metadata": {"a": 1}}
    assert with_both == {**with_one, "committed_metadata": {"b": 2}}


async def test_what_is_still_open_is_valid_for_the_client_librarys_own_models(authority: Authority) -> None:
    """By runcycles, ReservationListResponse and ReservationDetail; settled rows carry fields that its summary lacks."""
    authority.set_budget(ROOT, 100)
    dimensions = {f"d{number}": "значение" * 32 for number in range(16)}
    reservation_id = await authority.reserved(1, {**BOT, "dimensions": dimensions}, metadata={"a": 1})

    listed = wire.ReservationListResponse.model_validate((await authority.list()).body)
    detail = wire.ReservationDetail.model_validate((await authority.get(reservation_id)).body)

    assert listed.reservations[0].reservation_id == detail.reservation_id == reservation_id
    assert detail.subject.dimensions == dimensions


async def test_another_tenants_rows_are_neither_listed_nor_asked_for(authority: Authority) -> None:
    """Cycles v0, AUTHENTICATION: the tenant filter only validates."""
    globex = authority.as_tenant("globex")
    globex.set_budget("tenant:globex", 100)
    theirs = await globex.reserved(1, {"tenant": "globex"})

    assert await ids(authority) == []
    assert await ids(globex) == [theirs]
    assert_refused(await authority.list(tenant="globex"), 403, "FORBIDDEN")
    assert_refused(await authority.balances(tenant="globex"), 403, "FORBIDDEN")


async def test_balances_show_the_whole_tree_in_every_unit(authority: Authority) -> None:
    """Cycles v0, getBalances: ``scope`` is the last segment; what is zero of debt, limit and flag is left out."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(ROOT, 5, unit="CREDITS")
    authority.set_budget(LEAF, 10, overdraft_limit=9)
    await authority.event(13, BOT, overage_policy="ALLOW_WITH_OVERDRAFT")
    authority.as_tenant("globex").set_budget("tenant:globex", 100)

    rows = body_of(await authority.balances(tenant="acme", include_children="true"))["balances"]

    by_place = {(row["scope_path"], row["remaining"]["unit"]): row for row in rows}
    assert set(by_place) == {(ROOT, "CREDITS"), (ROOT, "TOKENS"), (LEAF, "TOKENS")}
    assert {"debt", "overdraft_limit", "is_over_limit"}.isdisjoint(by_place[ROOT, "CREDITS"])
    leaf = by_place[LEAF, "TOKENS"]
    assert leaf["scope"] == "agent:bot"
    assert leaf["remaining"]["amount"] == -3
    assert leaf["debt"] == {"unit": "TOKENS", "amount": 3}
    assert leaf["overdraft_limit"] == {"unit": "TOKENS", "amount": 9}
    assert "is_over_limit" not in leaf
    assert leaf["spent"] == leaf["allocated"] == {"unit": "TOKENS", "amount": 10}


async def test_balances_say_that_a_budget_is_over_its_limit(authority: Authority) -> None:
    """Cycles v0, Balance.is_over_limit: there only where it is true."""
    authority.set_budget(ROOT, 10)
    await authority.event(13)

    (row,) = body_of(await authority.balances(tenant="acme"))["balances"]

    assert row["is_over_limit"] is True


async def test_balances_come_in_the_order_of_their_scopes(authority: Authority) -> None:
    """Ours: people and tests read them."""
    authority.require("default order")
    for scope, unit in ((LEAF, "TOKENS"), (ROOT, "TOKENS"), (ROOT, "CREDITS")):
        authority.set_budget(scope, 1, unit=unit)

    rows = body_of(await authority.balances(tenant="acme"))["balances"]

    assert [(row["scope_path"], row["remaining"]["unit"]) for row in rows] == [
        (ROOT, "CREDITS"),
        (ROOT, "TOKENS"),
        (LEAF, "TOKENS"),
    ]


async def test_balances_are_found_by_whole_segments(authority: Authority) -> None:
    """Cycles v0, getBalances: every path through that agent."""
    for scope in (ROOT, LEAF, "tenant:acme/agent:bot2", "tenant:acme/workspace:w/agent:bot"):
        authority.set_budget(scope, 1)

    rows = body_of(await authority.balances(agent="Bot"))["balances"]
    both = body_of(await authority.balances(agent="bot", workspace="w"))["balances"]

    assert {row["scope_path"] for row in rows} == {LEAF, "tenant:acme/workspace:w/agent:bot"}
    assert [row["scope_path"] for row in both] == ["tenant:acme/workspace:w/agent:bot"]


async def test_balances_need_a_filter(authority: Authority) -> None:
    """By runcycles, get_balances: ValueError before anything is asked."""
    for query in ({}, {"include_children": "true"}):
        with pytest.raises(ValueError, match="tenant"):
            await authority.client.get_balances(**query)


async def test_balances_come_in_pages_that_show_each_budget_once(authority: Authority) -> None:
    """Cycles v0, getBalances: limit and cursor, as in every list."""
    scopes = {f"tenant:acme/agent:a{number}" for number in range(5)}
    for scope in scopes:
        authority.set_budget(scope, 1)

    pages = [body_of(await authority.balances(tenant="acme", limit="2"))]
    while pages[-1]["has_more"]:
        pages.append(body_of(await authority.balances(tenant="acme", limit="2", cursor=pages[-1]["next_cursor"])))

    assert [len(page["balances"]) for page in pages] == [2, 2, 1]
    assert sorted(row["scope_path"] for page in pages for row in page["balances"]) == sorted(scopes)
