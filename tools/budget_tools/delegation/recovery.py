"""Settling what killed processes left behind, so that their delegations can go on and no money stays held.

    what was written down of a spend       what it becomes
    held for a last answer                 released
    departed, its cost known               committed at that cost
    departed, its cost not known           committed at its bound, marked ``actual_source: "bound"``
    any of them, settled already           struck out, and not charged where it had been released
    departed, its reservation expired      booked as an event under the same key
    the authority is away                  stays, to be tried again

The same keys are used every time, so that settling twice changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from runcycles import AsyncCyclesClient, CyclesResponse

from budget_tools.claude.output_schema import Mismatch, OutputSchema
from budget_tools.core.errors import AuthorityError, AuthorityUnavailableError
from budget_tools.core.money import Money
from budget_tools.delegation.conversation import final_answer
from budget_tools.delegation.log import turn_cost_microcents
from budget_tools.delegation.records import ToolCallRecord, TurnRecord
from budget_tools.delegation.store import DelegationStore, Orphan, Outcome, Step, Stored
from budget_tools.pricing.evidence_table import FACTS_OF_CRASH, row_for
from budget_tools.spends.records import Spend
from budget_tools.spends.responses import body_of
from budget_tools.spends.settlement import is_booked, is_committed

logger = logging.getLogger(__name__)

INTERRUPTED = Outcome(
    status="failed", hint="The process that ran it ended; what was in flight is settled. Resume it to go on."
)

_FINAL_STOP_REASONS = ("end_turn", "stop_sequence")

_GONE = frozenset({404, 409})
"""Statuses by which an authority says that there is nothing left to settle."""


async def settle_orphans(store: DelegationStore, cycles: AsyncCyclesClient, unsettled: list[Orphan]) -> bool:
    """Settle every delegation whose process died; whether all could be settled.

    Args:
        store: where they are found.
        cycles: the budget authority.
        unsettled: what this process took over before and could not settle; kept up to date.

    Raises:
        BudgetError: the store cannot be read or written.
    """
    unsettled += await store.orphans()
    for orphan in tuple(unsettled):
        try:
            await _settle(orphan, store, cycles)
        except AuthorityError as exc:
            logger.warning("Delegation %s is not settled yet: %s", orphan.delegation.delegation_id, exc.message)
        else:
            unsettled.remove(orphan)
    return not unsettled


async def _settle(orphan: Orphan, store: DelegationStore, cycles: AsyncCyclesClient) -> None:
    delegation = orphan.delegation
    turns = {turn.number: turn.model_copy(deep=True) for turn in delegation.turns}
    for spend in orphan.spends:
        if spend.is_hold:
            await _release(spend, cycles)
            await store.write(delegation.delegation_id, Step(struck=[spend.reservation_id]))
            continue
        response = await _commit(delegation.delegation_id, spend, cycles)
        if response.status == 409 and spend.charge is None and await _is_given_back(spend, cycles):
            await store.write(delegation.delegation_id, Step(struck=[spend.reservation_id]))
            continue
        turn = turns.setdefault(spend.turn, TurnRecord(number=spend.turn, model=delegation.model))
        if spend.charge is None:
            _charge_bound(turn, spend)
        charge = spend.bound if spend.charge is None else spend.charge
        await store.write(
            delegation.delegation_id,
            Step(
                turn=turn,
                spent_microcents=_total(list(turns.values())),
                charges={spend.reservation_id: charge},
                struck=[spend.reservation_id],
            ),
        )
    if delegation.status == "running":
        outcome = await _outcome(delegation, turns, store)
        await store.write(delegation.delegation_id, Step(outcome=outcome))


async def _outcome(delegation: Stored, turns: Mapping[int, TurnRecord], store: DelegationStore) -> Outcome:
    """Say how a delegation ended whose process died: an answer that was final stays so, and is not asked for again."""
    last = turns[max(turns)] if turns else None
    if last is None or last.stop_reason not in _FINAL_STOP_REASONS:
        return INTERRUPTED
    answer = final_answer(await store.conversation(delegation.delegation_id))
    if answer is None:
        return INTERRUPTED
    if delegation.task.output_schema is None:
        return Outcome(status="completed")
    checked = OutputSchema.parse(delegation.task.output_schema).check(answer)
    if isinstance(checked, Mismatch):
        return INTERRUPTED
    return Outcome(status="completed", structured=checked.value)


def _total(turns: Sequence[TurnRecord]) -> int:
    return sum(turn_cost_microcents(turn) for turn in turns)


def _charge_bound(turn: TurnRecord, spend: Spend) -> None:
    """Note in a turn what was charged for want of knowledge."""
    charged = Money.of(spend.bound, spend.unit)
    if spend.action["kind"] == "tool.call":
        call = ToolCallRecord(name=spend.action["name"], ok=False, duration_ms=0, charged=charged)
        turn.tool_calls = [*turn.tool_calls, call]
        return
    turn.model = spend.action["name"]
    turn.reservation_id = spend.reservation_id
    turn.reserved = turn.charged = charged
    turn.actual_source = "bound"
    turn.charged_because = row_for(FACTS_OF_CRASH).reason


async def _release(spend: Spend, cycles: AsyncCyclesClient) -> None:
    request = {"idempotency_key": f"release-{spend.key}", "reason": "its process ended"}
    response = await cycles.release_reservation(spend.reservation_id, request)
    if not response.is_success and response.status not in (*_GONE, 410):
        body_of(response, f"release reservation {spend.reservation_id}")


async def _is_given_back(spend: Spend, cycles: AsyncCyclesClient) -> bool:
    """Say whether the process knew that nothing was spent, and had released the reservation before it died.

    Raises:
        AuthorityError: the authority is away or refuses the credentials.
    """
    response = await cycles.get_reservation(spend.reservation_id)
    if response.status == 410:
        return False  # it ran out, and what was spent under it was booked as an event
    return bool(body_of(response, f"look at reservation {spend.reservation_id}")["status"] == "RELEASED")


async def _commit(delegation_id: str, spend: Spend, cycles: AsyncCyclesClient) -> CyclesResponse:
    """Commit a spend, or book it where its reservation does not live any more; gives the authority's last answer.

    Raises:
        AuthorityError: the authority is away or refuses the credentials.
    """
    actual = {"unit": spend.unit, "amount": spend.bound if spend.charge is None else spend.charge}
    metadata: dict[str, Any] = {
        **spend.metadata,
        "delegation_id": delegation_id,
        "turn": spend.turn,
        "actual_source": "bound" if spend.charge is None else "usage",
        "settled_after_crash": True,
    }
    # The key by which the client library's journal repeats a commit that had left: only one of the two is charged.
    key = f"commit-{spend.key}"
    request = {"idempotency_key": key, "actual": actual, "metadata": metadata}
    response = await cycles.commit_reservation(spend.reservation_id, request)
    if response.status == 410:
        event = {
            "idempotency_key": key,
            "subject": dict(spend.subject),
            "action": dict(spend.action),
            "actual": actual,
            "metadata": {**metadata, "reservation_id": spend.reservation_id},
        }
        response = await cycles.create_event(event)
    if response.is_success and not (is_committed(response) or is_booked(response)):
        raise AuthorityUnavailableError(
            f"The budget authority's answer to settling reservation {spend.reservation_id} cannot be read",
            status=response.status,
        )
    if not _is_settled(response):
        body_of(response, f"settle reservation {spend.reservation_id}")
    return response


def _is_settled(response: CyclesResponse) -> bool:
    if response.is_success:
        return True
    if response.status not in _GONE:
        return False
    code = (response.body or {}).get("error")
    if code not in ("RESERVATION_FINALIZED", "IDEMPOTENCY_MISMATCH"):
        logger.error("A spend could not be settled, and is given up (%s)", code)
    return True
