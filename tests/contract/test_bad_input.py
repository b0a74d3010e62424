"""What is refused before any transaction opens, whoever sends it: nothing written, the field named."""

from typing import Any

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import ACTION, BOT, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def budget(authority: Authority) -> None:
    """Money that bad input could move."""
    authority.set_budget(ROOT, 100)


@pytest.mark.parametrize("value", ["бот", "a b", "a/b", "a:b", "", "a" * 129, "a\n", "a\0", 5, ["a"]])
async def test_a_level_holds_only_what_a_path_can(authority: Authority, value: object) -> None:
    """Cycles v0, Subject; the reference server's character set, so that separators stay separators."""
    if value == 5:
        authority.require("strict types")
    for response in (
        await authority.reserve(1, {"tenant": "acme", "agent": value}),
        await authority.event(1, {"tenant": "acme", "agent": value}),
        await authority.decide(1, {"tenant": "acme", "agent": value}),
    ):
        authority.assert_invalid(response, "subject.agent")


@pytest.mark.parametrize("subject", [{}, {"dimensions": {"a": "b"}}, {"team": "a", "tenant": "acme"}])
async def test_a_subject_names_a_level_and_only_levels(authority: Authority, subject: dict[str, Any]) -> None:
    """Cycles v0, Subject: at least one of the six, nothing unknown."""
    authority.assert_invalid(await authority.reserve(1, subject), "subject")


@pytest.mark.parametrize(
    "dimensions", [{f"d{number}": "" for number in range(17)}, {"a": "b" * 257}, {"a": 1}, {"a": None}]
)
async def test_dimensions_have_bounds(authority: Authority, dimensions: dict[str, Any]) -> None:
    """Cycles v0, Subject.dimensions: 16 entries, values of 256."""
    if dimensions in ({"a": 1}, {"a": None}):
        authority.require("strict types")
    response = await authority.reserve(1, {**BOT, "dimensions": dimensions})

    authority.assert_invalid(response, "dimensions")


@pytest.mark.parametrize("amount", [-1, "5", 5.5, 5.0, 2**63, True, None, 10**4_000])
async def test_an_amount_is_a_whole_number_of_63_bits(authority: Authority, amount: object) -> None:
    """Cycles v0, Amount.amount: no coercion, from text or float or truth."""
    if isinstance(amount, str | float):
        authority.require("strict types")
    reservation_id = await authority.reserved(10)
    for response in (
        await authority.reserve(amount),
        await authority.decide(amount),
        await authority.event(amount),
        await authority.commit(reservation_id, amount),
    ):
        assert_refused(response, 400, "INVALID_REQUEST")

    assert await authority.amounts() == "90/10/0/0"


LENIENT: list[dict[str, Any]] = [{"ttl_ms": "1000"}, {"unit": 0}, {"dry_run": "true"}, {"dry_run": 1}]
"""What some readers take for what it is not."""


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
        ({"surprise": 1}, "surprise"),
        ({"action": {**ACTION, "name": " "}}, "action.name"),
        ({"action": {**ACTION, "name": "n" * 257}}, "action.name"),
        ({"action": {**ACTION, "kind": ""}}, "action.kind"),
        ({"action": {**ACTION, "kind": "k" * 65}}, "action.kind"),
        ({"action": {**ACTION, "tags": ["t"] * 11}}, "action.tags"),
        ({"action": {**ACTION, "tags": ["t" * 65]}}, "action.tags"),
        ({"action": {"kind": "k"}}, "action.name"),
        ({"metadata": []}, "metadata"),
    ],
)
async def test_a_reserve_is_checked_field_by_field(authority: Authority, fields: dict[str, Any], named: str) -> None:
    """Cycles v0, ReservationCreateRequest: limits, enums, and nothing unknown."""
    if fields in LENIENT:
        authority.require("strict types")
    authority.assert_invalid(await authority.reserve(1, TENANT, **fields), named)

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
    if metrics == {"tokens_output": 1.5}:
        authority.require("strict types")
    reservation_id = await authority.reserved(1)
    for response in (
        await authority.commit(reservation_id, 1, metrics=metrics),
        await authority.event(1, metrics=metrics),
    ):
        authority.assert_invalid(response, named)


async def test_an_event_and_a_release_have_bounds_of_their_own(authority: Authority) -> None:
    """Cycles v0, EventCreateRequest.client_time_ms and ReleaseRequest.reason."""
    reservation_id = await authority.reserved(1)

    assert_refused(await authority.event(1, client_time_ms=-1), 400, "INVALID_REQUEST")
    assert_refused(await authority.event(1, client_time_ms=2**63), 400, "INVALID_REQUEST")
    assert_refused(await authority.release(reservation_id, reason="r" * 257), 400, "INVALID_REQUEST")
    assert (await authority.release(reservation_id, reason="r" * 256)).status == 200


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


async def test_input_is_checked_before_the_key_is_looked_up(authority: Authority) -> None:
    """Cycles v0, order of checks: validation, then replay."""
    await authority.reserved(1, key="k")

    assert_refused(await authority.reserve(-1, key="k"), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("field", ["ttl_ms", "grace_period_ms", "overage_policy", "dry_run", "metadata"])
async def test_a_field_is_there_or_not_there_but_never_null(authority: Authority, field: str) -> None:
    """Cycles v0, ReservationCreateRequest: no field of it may be null."""
    authority.require("strict types")

    response = await authority.reserve(1, TENANT, **{field: None})

    authority.assert_invalid(response, field)
