"""When the budget authority is away: nothing leaves unreserved, and nothing that was paid for is lost."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from runcycles import CyclesResponse

from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.demo.scripted_claude import ToolCall, Turn
from tools.delegation.harness import Bench, OpenBench, happens

pytestmark = pytest.mark.anyio

Body = BaseModel | dict[str, Any]


class AbsentAuthority(EmbeddedCyclesClient):
    """An authority that answers some operations with 503, as a real one behind a proxy does while it restarts."""

    def __init__(self, inner: EmbeddedCyclesClient) -> None:
        super().__init__(inner.ledger.writer, inner._config)
        self.is_away: Callable[[str], bool] = lambda _: False
        self.committed = anyio.Event()

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve, or be away."""
        return _away() if self.is_away("reserve") else await super().create_reservation(request)

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend, or be away."""
        return _away() if self.is_away("extend") else await super().extend_reservation(reservation_id, request)

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit, or be away."""
        if self.is_away("commit"):
            return _away()
        response = await super().commit_reservation(reservation_id, request)
        self.committed.set()
        return response

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """Show balances, or be away."""
        return _away() if self.is_away("balances") else await super().get_balances(**query_params)


def _away() -> CyclesResponse:
    return CyclesResponse.http_error(503, "away", {"error": "INTERNAL_ERROR", "message": "away", "request_id": "r"})


async def with_absences(bench: OpenBench, script: list[Turn], **settings: Any) -> tuple[Bench, AbsentAuthority]:
    """Open a bench whose authority can be sent away."""
    b = await bench(script, **settings)
    inner = b.services.internal_client
    assert isinstance(inner, EmbeddedCyclesClient)
    absent = AbsentAuthority(inner)
    b.services.__dict__.update(cycles=absent, internal_client=absent)
    return b, absent


@pytest.mark.parametrize("operation", ["reserve", "extend"])
async def test_without_the_authority_nothing_is_sent(bench: OpenBench, operation: str) -> None:
    """Design, when things go wrong: authority down, before or at the reserve: clear error, nothing sent."""
    b, authority = await with_absences(bench, [Turn(text="Never.")])
    authority.is_away = lambda asked: asked == operation

    result = await b.delegate()

    assert (result["status"], b.sent, result["spent"]["amount"]) == ("failed", 0, 0)
    assert "authority" in result["hint"]


async def test_a_paid_turn_is_not_lost_when_the_balance_cannot_be_read(bench: OpenBench) -> None:
    """Design: the answer is returned whenever there is one; what remains is then not known, which is no zero."""
    b, authority = await with_absences(bench, [Turn(text="Done.")])
    authority.is_away = lambda asked: asked == "balances"

    result = await b.delegate()
    authority.is_away = lambda _: False

    assert (result["status"], result["text"], result.get("remaining")) == ("completed", "Done.", None)
    assert result["spent"]["amount"] == (await b.balance())["spent"] > 0


async def test_a_commit_that_is_not_answered_is_repeated_under_the_same_key(bench: OpenBench) -> None:
    """Design: answered, not committed, authority down: journal, replay; charged once."""
    b, authority = await with_absences(bench, [Turn(text="Done.")])
    refusals = iter([True])
    authority.is_away = lambda asked: asked == "commit" and next(refusals, False)

    result = await b.delegate()

    assert (result["status"], result["text"]) == ("completed", "Done.")
    assert (await b.balance())["reserved"] == result["turns"][0]["reserved"]["amount"]
    await happens(authority.committed)
    assert (await b.balance())["spent"] == result["spent"]["amount"]


async def test_an_authority_that_goes_away_between_turns_costs_no_work(bench: OpenBench) -> None:
    """A fault loses no work that was paid for."""
    b, authority = await with_absences(
        bench, [Turn(text="So far.", tool_calls=(ToolCall("shed__count"),)), Turn(text="Never.")]
    )
    reserves = iter([False, False])  # what is held for a last answer, and the first turn
    authority.is_away = lambda asked: asked == "reserve" and next(reserves, True)

    result = await b.delegate(tools=["shed__count"])

    assert (result["status"], result["text"], b.sent, len(result["turns"])) == ("failed", "So far.", 1, 1)
    assert result["hint"].startswith("AUTHORITY")
