"""What is refused before any transaction opens, whoever sends it: nothing written, the field named."""

from collections.abc import Callable
from typing import Any

import pytest

from server.authority.harness import ACTION, BOT, ROOT, TENANT, Authority, assert_refused, body_of

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
def budget(authority: Authority) -> None:
    """Money that bad input could move."""
    authority.set_budget(ROOT, 100)


@pytest.mark.parametrize("value", ["бот", "a b", "a/b", "a:b", "", "a" * 129, "a\n", "a\0", 5, ["a"]])
async def test_a_level_holds_only_what_a_path_can(authority: Authority, value: object) -> None:
    """Cycles v0, Subject; the reference server's character set, so that separators stay separators."""
    for response in (
        await authority.reserve(1, {"tenant": "acme", "agent": value}),
        await authority.event(1, {"tenant": "acme", "agent": value}),
        await authority.decide(1, {"tenant": "acme", "agent": value}),
    ):
        assert "subject.agent" in assert_refused(response, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("subject", [{}, {"dimensions": {"a": "b"}}, {"team": "a", "tenant": "acme"}])
async def test_a_subject_names_a_level_and_only_levels(authority: Authority, subject: dict[str, Any]) -> None:
    """Cycles v0, Subject: at least one of the six, nothing unknown."""
    assert "subject" in assert_refused(await authority.reserve(1, subject), 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    "dimensions", [{f"d{number}": "" for number in range(17)}, {"a": "b" * 257}, {"a": 1}, {"a": None}]
)
async def test_dimensions_have_bounds(authority: Authority, dimensions: dict[str, Any]) -> None:
    """Cycles v0, Subject.dimensions: 16 entries, values of 256."""
    response = await authority.reserve(1, {**BOT, "dimensions": dimensions})

    assert "dimensions" in assert_refused(response, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("amount", [-1, "5", 5.5, 5.0, 2**63, True, None, float("nan"), 10**4_000])
async def test_an_amount_is_a_whole_number_of_63_bits(authority: Authority, amount: object) -> None:
    """Cycles v0, Amount.amount: no coercion, from text or float or truth."""
    reservation_id = await authority.reserved(10)
    for response in (
        await authority.reserve(amount),
        await authority.decide(amount),
        await authority.event(amount),
        await authority.commit(reservation_id, amount),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")

    assert await authority.amounts() == "90/10/0/0"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ttl_ms": 999}, "ttl_ms"),
        ({"ttl_ms": 86_400_001}, "ttl_ms"),
        ({"ttl_ms": "1000"}, "ttl_ms"),
        ({"grace_period_ms": -1}, "grace_period_ms"),
        ({"grace_period_ms": 60_001}, "grace_period_ms"),
        ({"unit": "EUR"}, "estimate.unit"),
        ({"unit": 0}, "estimate.unit"),
        ({"overage_policy": "MAYBE"}, "overage_policy"),
        ({"dry_run": "true"}, "dry_run"),
        ({"dry_run": 1}, "dry_run"),
        ({"key": "k" * 257}, "idempotency_key"),
        ({"key": 5}, "idempotency_key"),
        ({"surprise": 1}, "surprise"),
        ({"action": {**ACTION, "name": " "}}, "action.name"),
        ({"action": {**ACTION, "name": "n" * 257}}, "action.name"),
        ({"action": {**ACTION, "kind": ""}}, "action.kind"),
        ({"action": {**ACTION, "kind": "k" * 65}}, "action.kind"),
        ({"action": {**ACTION, "tags": ["t"] * 11}}, "action.tags"),
        ({"action": {**ACTION, "tags": ["t" * 65]}}, "action.tags"),
        ({"action": {"kind": "k"}}, "action.name"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"on_expiry": "maybe"}}, "on_expiry"),
        ({"metadata": {"on_expiry": ["charge"]}}, "on_expiry"),
    ],
)
async def test_a_reserve_is_checked_field_by_field(authority: Authority, fields: dict[str, Any], named: str) -> None:
    """Cycles v0, ReservationCreateRequest: limits, enums, and nothing unknown."""
    body = assert_refused(await authority.reserve(1, TENANT, **fields), 400, "INVALID_REQUEST")

    assert named in body["message"]
    assert await authority.amounts() == "100/0/0/0"


async def test_values_at_their_limits_are_accepted(authority: Authority) -> None:
    """Cycles v0: the other side of every limit."""
    action = {"kind": "k" * 64, "name": "имя" * 85, "tags": ["t" * 64] * 10}

    assert (
        await authority.reserve(0, {"tenant": "acme", "agent": "a" * 128}, key="k" * 256, action=action)
    ).status == 200


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"tokens_input": -1}, "tokens_input"),
        ({"tokens_output": 1.5}, "tokens_output"),
        ({"latency_ms": 2**63}, "latency_ms"),
        ({"model_version": "m" * 129}, "model_version"),
        ({"custom": []}, "custom"),
        ({"cost": 1}, "cost"),
    ],
)
async def test_metrics_are_checked_on_commit_and_event(
    authority: Authority, metrics: dict[str, Any], named: str
) -> None:
    """Cycles v0, StandardMetrics."""
    reservation_id = await authority.reserved(1)
    for response in (
        await authority.commit(reservation_id, 1, metrics=metrics),
        await authority.event(1, metrics=metrics),
    ):
        assert named in assert_refused(response, 400, "INVALID_REQUEST")["message"]


async def test_an_event_and_a_release_have_bounds_of_their_own(authority: Authority) -> None:
    """Cycles v0, EventCreateRequest.client_time_ms and ReleaseRequest.reason."""
    reservation_id = await authority.reserved(1)

    assert_refused(await authority.event(1, client_time_ms=-1), 400, "INVALID_REQUEST")
    assert_refused(await authority.event(1, client_time_ms=2**63), 400, "INVALID_REQUEST")
    assert_refused(await authority.release(reservation_id, reason="r" * 257), 400, "INVALID_REQUEST")
    assert (await authority.release(reservation_id, reason="r" * 256)).status == 200


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
async def test_metadata_that_json_cannot_say_is_refused(authority: Authority, name: str) -> None:
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


async def test_metadata_comes_back_as_it_was_sent(authority: Authority) -> None:
    """Cycles v0, metadata: nothing is dropped, rounded or re-encoded."""
    metadata = {
        "null": None,
        "nul": "a\0b",
        "emoji": "💶",
        "float": 0.1,
        "big": 10**40,
        "nested": [{"a": [None, True]}],
    }

    reservation_id = await authority.reserved(1, metadata=metadata)

    assert body_of(await authority.get(reservation_id))["metadata"] == metadata


@pytest.mark.parametrize("text", ["\ud800", "k\udfff"])
async def test_a_lone_surrogate_is_refused_wherever_text_goes(authority: Authority, text: str) -> None:
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


@pytest.mark.parametrize("body", [None, [], "{}", 5, {}, b"{}", {1: 2}])
async def test_a_body_that_is_no_request_is_refused(authority: Authority, body: Any) -> None:
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


async def test_input_is_checked_before_the_key_is_looked_up(authority: Authority) -> None:
    """Cycles v0, order of checks: validation, then replay."""
    await authority.reserved(1, key="k")

    assert_refused(await authority.reserve(-1, key="k"), 400, "INVALID_REQUEST")
