"""What a delegation has reserved is settled by that delegation alone, whatever face or client asks otherwise."""

from collections.abc import Mapping
from typing import Any

import pytest
from runcycles import AsyncCyclesClient, CyclesResponse
from runcycles.retry import AsyncCommitRetryEngine

from budget_server.authority.audit import audit
from budget_server.authority.client import EmbeddedCyclesClient
from contract.answers import body_of
from contract.harness import ROOT, Clock
from contract.local import EmbeddedAuthority, HttpAuthority

pytestmark = pytest.mark.anyio

OWNER, OTHER = "01a20dff-00c6-72c3-8b02-5427ed7e1131", "01a20dff-00c7-7b31-ad91-9d24bf83805a"
SENTENCE = "Reservation {} belongs to delegation {}: cancel that with delegation_status."


def embedded(authority: EmbeddedAuthority) -> EmbeddedCyclesClient:
    """A client in the ledger's own process, as the tools have it."""
    return EmbeddedCyclesClient(authority.writer, authority.config)


def reserve_body(authority: EmbeddedAuthority, **fields: object) -> dict[str, Any]:
    """A reserve as a delegation makes it."""
    body = {**authority.intent(40), **fields}
    return {**body, "action": {**body["action"], "tags": ["delegation", f"delegation-{OWNER}", "turn-1"]}}


async def owned(authority: EmbeddedAuthority, **fields: object) -> str:
    """Reserve 40 as the owner, and give the reservation's id."""
    response = await embedded(authority).owned_by(OWNER).create_reservation(reserve_body(authority, **fields))
    return str(body_of(response)["reservation_id"])


async def attempts(
    authority: EmbeddedAuthority, client: AsyncCyclesClient, reservation_id: str
) -> list[CyclesResponse]:
    """Try everything that settles or extends."""
    return [
        await client.commit_reservation(reservation_id, authority.outlay(0)),
        await client.commit_reservation(reservation_id, authority.outlay(40)),
        await client.release_reservation(reservation_id, {"idempotency_key": authority.new_key()}),
        await client.extend_reservation(
            reservation_id,
            {"idempotency_key": authority.new_key(), "extend_by_ms": 1, "metadata": {"on_expiry": "release"}},
        ),
    ]


def refusals(responses: list[CyclesResponse]) -> set[tuple[int, str, str]]:
    """What was answered."""
    bodies: list[Mapping[str, Any]] = [response.body or {} for response in responses]
    return {(each.status, body["error"], body["message"]) for each, body in zip(responses, bodies, strict=True)}


@pytest.mark.parametrize("who", ["its tenant", "another delegation", "a sub-tenant's view"])
async def test_in_process_nobody_else_settles_or_extends_it(authority: EmbeddedAuthority, who: str) -> None:
    """Every refusal is one sentence that says whose it is, and changes nothing."""
    authority.set_budget(ROOT, 100)
    reservation_id = await owned(authority)
    client = embedded(authority)
    asking = {
        "its tenant": client,
        "another delegation": client.owned_by(OTHER),
        "a sub-tenant's view": client.for_tenant(authority.tenant),
    }[who]
    before = authority.sql("SELECT * FROM reservations")

    refused = refusals(await attempts(authority, asking, reservation_id))

    assert refused == {(409, "FORBIDDEN", SENTENCE.format(reservation_id, OWNER))}
    assert authority.sql("SELECT * FROM reservations") == before
    assert await authority.amounts() == "60/40/0/0"


def figures(authority: EmbeddedAuthority) -> list[tuple[int, ...]]:
    """What remains, is held and is spent."""
    return [tuple(row) for row in authority.sql("SELECT remaining, reserved, spent FROM budgets")]


async def test_over_http_nobody_settles_or_extends_it(http: HttpAuthority) -> None:
    """The HTTP face cannot speak for a delegation, whatever its key; a client library gives up at once."""
    http.set_budget(ROOT, 100)
    reservation_id = await owned(http)

    async with AsyncCyclesClient(http.config) as client:
        refused = refusals(await attempts(http, client, reservation_id))
        engine = AsyncCommitRetryEngine(http.config)
        engine.set_client(client)
        engine.schedule(reservation_id, http.outlay(0))
        await engine.flush(10)

    assert refused == {(409, "FORBIDDEN", SENTENCE.format(reservation_id, OWNER))}
    assert not list((http.path.parent / "journal").rglob("*.json")), "nothing is kept to be tried again"
    assert figures(http) == [(60, 40, 0)]


async def test_over_http_no_reserve_can_name_an_owner_and_no_list_shows_one(http: HttpAuthority) -> None:
    """An owner is set and shown within the process of the ledger alone: the protocol has no such field."""
    http.set_budget(ROOT, 100)
    reservation_id = await owned(http)

    async with AsyncCyclesClient(http.config) as client:
        listed = body_of(await client.list_reservations(include="owner"))["reservations"]
        shown = body_of(await client.get_reservation(reservation_id))
        named = await client.create_reservation({**http.intent(1), "owner": f"delegation:{OTHER}"})

    assert [each["reservation_id"] for each in listed] == [reservation_id]
    assert "owner" not in listed[0]
    assert "owner" not in shown
    assert named.status == 400


async def test_its_owner_extends_and_commits_it_and_is_answered_the_same_again(authority: EmbeddedAuthority) -> None:
    """Idempotency is the owner's; after that, the reservation is settled for everybody."""
    authority.set_budget(ROOT, 100)
    owner = embedded(authority).owned_by(OWNER)
    reservation_id = await owned(authority)
    commit = authority.outlay(30)

    extended = await owner.extend_reservation(reservation_id, {"idempotency_key": "e", "extend_by_ms": 1_000})
    first = await owner.commit_reservation(reservation_id, commit)
    again = await owner.commit_reservation(reservation_id, commit)
    others = await embedded(authority).commit_reservation(reservation_id, commit)

    assert (extended.status, first.status) == (200, 200)
    assert again.body == first.body
    assert others.status == 409
    assert await authority.amounts() == "70/0/30/0"
    assert audit(authority.path, None).findings == []


async def test_what_is_repeated_for_every_tenant_speaks_for_the_owner(authority: EmbeddedAuthority) -> None:
    """The journal of this process repeats commits of any delegation."""
    authority.set_budget(ROOT, 100)
    reservation_id = await owned(authority)

    committed = await embedded(authority).for_all_tenants().commit_reservation(reservation_id, authority.outlay(7))

    assert committed.status == 200
    assert await authority.amounts() == "93/0/7/0"


async def test_an_owned_reservation_expires_as_its_owner_chose(authority: EmbeddedAuthority, clock: Clock) -> None:
    """Others cannot take the wish back that expiry charges it, and its owner may still say what it cost."""
    authority.set_budget(ROOT, 100)
    owner = embedded(authority).owned_by(OWNER)
    reservation_id = await owned(authority, metadata={"on_expiry": "charge"}, ttl_ms=1_000, grace_period_ms=0)
    await attempts(authority, embedded(authority), reservation_id)

    clock.now_ms += 2_000
    charged = await authority.amounts()
    others = refusals(await attempts(authority, embedded(authority), reservation_id))
    committed = await owner.commit_reservation(reservation_id, authority.outlay(9))

    assert charged == "60/0/40/0"
    assert {code for _, code, _ in others} == {"FORBIDDEN"}
    assert committed.status == 200
    assert await authority.amounts() == "91/0/9/0"


async def test_within_the_process_lists_say_whose_it_is(authority: EmbeddedAuthority) -> None:
    """A host may see what belongs to a delegation; what belongs to nobody has no owner."""
    authority.set_budget(ROOT, 100)
    reservation_id, free = await owned(authority), await authority.reserved(1)
    client = embedded(authority)

    listed = {each["reservation_id"]: each for each in body_of(await client.list_reservations())["reservations"]}

    assert listed[reservation_id]["owner"] == f"delegation:{OWNER}"
    assert body_of(await client.get_reservation(reservation_id))["owner"] == f"delegation:{OWNER}"
    assert "owner" not in listed[free]


async def test_who_repeats_a_reserve_does_not_become_its_owner(authority: EmbeddedAuthority) -> None:
    """The key of a reserve can be read in lists."""
    authority.set_budget(ROOT, 100)
    body = reserve_body(authority)
    first = body_of(await embedded(authority).owned_by(OWNER).create_reservation(body))

    again = body_of(await embedded(authority).create_reservation(body))
    released = await embedded(authority).release_reservation(
        again["reservation_id"], {"idempotency_key": authority.new_key()}
    )

    assert again["reservation_id"] == first["reservation_id"]
    assert released.status == 409
    assert await authority.amounts() == "60/40/0/0"


@pytest.mark.parametrize("owner", [f"delegation:{OTHER}", "somebody"])
async def test_an_owner_that_a_disk_has_changed_is_found(authority: EmbeddedAuthority, owner: str) -> None:
    """The action says for whom it was made."""
    authority.set_budget(ROOT, 100)
    reservation_id = await owned(authority)
    authority.sql("UPDATE reservations SET owner = ?", owner)

    (finding,) = audit(authority.path, None).findings

    assert finding == f"Reservation {reservation_id} belongs to {owner}, and was made for another."
