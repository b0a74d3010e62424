"""What the client library's methods do with the embedded ledger that an HTTP client could not."""

import anyio
import pytest
from runcycles import Action, Amount, EventCreateRequest, Subject, Unit

from contract.harness import BOT, LEAF, ROOT
from contract.local import EmbeddedAuthority

pytestmark = pytest.mark.anyio


async def test_a_model_that_json_cannot_say_is_a_bad_request(authority: EmbeddedAuthority) -> None:
    """Cycles v0, INVALID_REQUEST: also where it is the library's own model that cannot be written."""
    authority.set_budget(ROOT, 100)
    ten = Amount(unit=Unit.TOKENS, amount=10)
    for value in (object(), "\ud800"):
        request = EventCreateRequest(
            idempotency_key="e",
            subject=Subject(tenant="acme"),
            action=Action(kind="k", name="n"),
            actual=ten,
            metadata={"x": value},
        )
        with anyio.fail_after(10):
            assert (await authority.client.create_event(request)).status == 400


async def test_the_client_closes_as_a_context_manager_and_more_than_once(authority: EmbeddedAuthority) -> None:
    """runcycles, AsyncCyclesClient: ``async with``; afterwards every call has an answer, none hangs."""
    authority.set_budget(ROOT, 100)
    with anyio.fail_after(10):
        async with authority.client as client:
            await authority.reserved(10)
        await client.aclose()

        response = await authority.reserve(10)

    assert response.status == 503
    assert "closed" in str(response.error_message)
    authority.reopen()
    assert await authority.amounts() == "90/10/0/0"


async def test_a_suspended_tenant_does_not_block_its_ledger(authority: EmbeddedAuthority) -> None:
    """Cycles v0, tenants: suspension is a matter of keys, and there are none here."""
    authority.set_budget(ROOT, 100)
    authority.set_tenant(status="SUSPENDED")

    assert (await authority.reserve(1)).status == 200


async def test_the_debt_of_all_scopes_is_kept_with_the_reservation(authority: EmbeddedAuthority) -> None:
    """Cycles v0, debt_incurred: for reports; no answer carries it."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 20, overdraft_limit=50)
    reservation_id = await authority.reserved(10, BOT, overage_policy="ALLOW_WITH_OVERDRAFT")

    await authority.commit(reservation_id, 60)

    assert authority.sql("SELECT debt_incurred FROM reservations") == [(40,)]
