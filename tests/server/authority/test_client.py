"""What the client library's methods do with the embedded ledger that an HTTP client could not."""

import anyio
import pytest
from runcycles import Action, Amount, EventCreateRequest, Subject, Unit

from contract.harness import ROOT
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
