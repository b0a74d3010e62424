"""What Python can say and JSON cannot: it never travels over HTTP, and is no better in process."""

from collections.abc import Callable
from typing import Any

import pytest

from contract.answers import assert_refused
from contract.harness import BOT, ROOT
from contract.local import EmbeddedAuthority

pytestmark = pytest.mark.anyio

circular: dict[str, Any] = {}
circular["self"] = circular


def deep() -> Any:
    """Nest lists deeper than any reader goes."""
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.fixture(autouse=True)
def budget(authority: EmbeddedAuthority) -> None:
    """Money that bad input could move."""
    authority.set_budget(ROOT, 100)


UNSPEAKABLE: dict[str, Callable[[], object]] = {
    "surrogate": lambda: "\ud800",
    "surrogate name": lambda: {"a\udfff": 1},
    "nan": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "object": object,
    "set": lambda: {1, 2},
    "bytes": lambda: b"x",
    "huge": lambda: 10**5_000,
    "deep": deep,
    "circular": lambda: circular,
}


@pytest.mark.parametrize("name", UNSPEAKABLE)
async def test_metadata_that_json_cannot_say_is_refused(authority: EmbeddedAuthority, name: str) -> None:
    """Cycles v0, metadata is JSON (RFC 8259): what could not have come over HTTP is no better in process."""
    value = UNSPEAKABLE[name]()
    reservation_id = await authority.reserved(1)
    for response in (
        await authority.reserve(1, metadata={"x": value}),
        await authority.decide(1, metadata={"x": value}),
        await authority.event(1, metadata={"x": value}),
        await authority.event(1, metrics={"custom": {"x": value}}),
        await authority.commit(reservation_id, 1, metadata={"x": value}),
        await authority.extend(reservation_id, 1, metadata={"x": value}),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")

    assert await authority.amounts() == "99/1/0/0"


@pytest.mark.parametrize("text", ["\ud800", "k\udfff"])
async def test_a_lone_surrogate_is_refused_wherever_text_goes(authority: EmbeddedAuthority, text: str) -> None:
    """Cycles v0, string is Unicode: refused as input, never a crash of the store."""
    reservation_id = await authority.reserved(1)
    for response in (
        await authority.reserve(1, key=text),
        await authority.reserve(1, action={"kind": "k", "name": text}),
        await authority.reserve(1, {**BOT, "dimensions": {"a": text}}),
        await authority.release(reservation_id, reason=text),
        await authority.commit(reservation_id, 1, key=text),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")
    assert_refused(await authority.get(text), 404, "NOT_FOUND")
    assert_refused(await authority.commit(text, 1), 404, "NOT_FOUND")


async def test_a_query_that_unicode_cannot_say_is_refused(authority: EmbeddedAuthority) -> None:
    """Cycles v0, string is Unicode: in a filter as in a body, and a cursor longer than any URL."""
    for query in (
        {"workspace": "\ud800"},
        {"idempotency_key": "\ud800"},
        {"cursor": "\ud800"},
        {"cursor": "W1tb" * 30_000},
    ):
        assert_refused(await authority.list(**query), 400, "INVALID_REQUEST")
    assert_refused(await authority.balances(agent="\ud800"), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("value", [5, None, ["k"]])
async def test_a_key_is_text(authority: EmbeddedAuthority, value: object) -> None:
    """Cycles v0, IdempotencyKey; runcycles itself could not send one that is not."""
    body = {**authority.intent(1), "idempotency_key": value}

    response = await authority.client.create_reservation(body)

    assert "idempotency_key" in assert_refused(response, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("body", [None, [], "{}", 5, {}, b"{}", {1: 2}])
async def test_a_body_that_is_no_request_is_refused(authority: EmbeddedAuthority, body: Any) -> None:
    """Cycles v0, INVALID_REQUEST."""
    client = authority.client
    for response in (
        await client.create_reservation(body),
        await client.decide(body),
        await client.create_event(body),
        await client.commit_reservation("id", body),
        await client.release_reservation("id", body),
        await client.extend_reservation("id", body),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")


async def test_an_amount_is_a_number(authority: EmbeddedAuthority) -> None:
    """Cycles v0, Amount.amount: RFC 8259 has no NaN."""
    reservation_id = await authority.reserved(10)
    for response in (
        await authority.reserve(float("nan")),
        await authority.event(float("nan")),
        await authority.commit(reservation_id, float("nan")),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")
