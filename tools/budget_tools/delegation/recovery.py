"""Recovery: settles the spends of killed processes, so that their delegations can be resumed and no money stays held.

    what was written down of a spend       what it becomes
    held for a last answer                 released
    in flight, its cost known              committed at that cost
    in flight, its cost not known          committed at its bound, marked ``actual_source: "bound"``
    any of them, settled by its process    deleted, and not charged if that had released it
    in flight, its reservation expired or  booked as an event under the same key (``spend_client.py``)
      settled by another party
    the authority is unavailable           stays, to be tried again

The same keys are used every time, so that settling twice changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence

from runcycles import AsyncCyclesClient, CyclesResponse

from budget_tools.claude.output_schema import Mismatch, OutputSchema
from budget_tools.core.errors import AuthorityError, AuthorityUnavailableError
from budget_tools.core.money import Money
from budget_tools.delegation.conversation import final_answer
from budget_tools.delegation.log import turn_cost_microcents
from budget_tools.delegation.records import ToolCallRecord, TurnRecord
from budget_tools.delegation.replies import ending_of
from budget_tools.delegation.store import DelegationStore, Orphan, Outcome, Step, Stored
from budget_tools.pricing.evidence_table import FACTS_OF_CRASH, row_for
from budget_tools.spends.records import Settled, Spend
from budget_tools.spends.responses import body_of
from budget_tools.spends.settlement import is_committed
from budget_tools.spends.spend_client import SpendClient

logger = logging.getLogger(__name__)

INTERRUPTED = Outcome(
    status="failed", hint="The process that ran it ended; what was in flight is settled. Resume it to go on."
)

_GONE = frozenset({404, 409})
"""Statuses by which an authority says that there is nothing left to settle."""


async def settle_orphans(store: DelegationStore, cycles: AsyncCyclesClient, unsettled: list[Orphan]) -> bool:
    """Settle every delegation whose process died; return whether all could be settled.

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
    client = SpendClient(cycles, delegation.delegation_id)
    turns = {turn.number: turn.model_copy(deep=True) for turn in delegation.turns}
    for spend in orphan.spends:
        client.remember(spend.reservation_id, subject=spend.subject, action=spend.action)
        if spend.is_hold:
            await _release(spend, client)
            await store.write(delegation.delegation_id, Step(struck=[spend.reservation_id]))
            continue
        settled = await _charge(delegation.delegation_id, spend, client)
        if settled is None:
            await store.write(delegation.delegation_id, Step(struck=[spend.reservation_id]))
            continue
        turn = turns.setdefault(spend.turn, TurnRecord(number=spend.turn, model=delegation.model))
        _note_charge(turn, spend, settled)
        await store.write(
            delegation.delegation_id,
            Step(
                turn=turn,
                spent_microcents=_total(list(turns.values())),
                charges={spend.reservation_id: settled.charged},
                struck=[spend.reservation_id],
            ),
        )
    if delegation.status == "running":
        outcome = await _outcome(delegation, turns, store)
        await store.write(delegation.delegation_id, Step(outcome=outcome))


async def _outcome(delegation: Stored, turns: Mapping[int, TurnRecord], store: DelegationStore) -> Outcome:
    """Return the ending of a delegation whose process died: a final answer stays final, and is not asked for again."""
    last = turns[max(turns)] if turns else None
    if last is None or not last.stop_reason or ending_of(last.stop_reason) != "whole":
        return INTERRUPTED
    answer = final_answer(await store.conversation(delegation.delegation_id))
    if answer is None or not answer.strip():
        return INTERRUPTED
    if delegation.task.output_schema is None:
        return Outcome(status="completed")
    checked = OutputSchema.parse(delegation.task.output_schema).check(answer)
    if isinstance(checked, Mismatch):
        return INTERRUPTED
    return Outcome(status="completed", structured=checked.value)


def _total(turns: Sequence[TurnRecord]) -> int:
    return sum(turn_cost_microcents(turn) for turn in turns)


def _note_charge(turn: TurnRecord, spend: Spend, settled: Settled) -> None:
    """Write the charge into a turn; if its cost was not known, the charge was its bound."""
    charged = Money.of(settled.charged, spend.unit)
    uncovered = Money.of(settled.uncovered, spend.unit) if settled.uncovered else None
    if spend.charge is not None:
        if turn.reservation_id == spend.reservation_id:
            turn.charged, turn.uncovered = charged, uncovered
        return
    if spend.action["kind"] == "tool.call":
        call = ToolCallRecord(name=spend.action["name"], ok=False, duration_ms=0, charged=charged, uncovered=uncovered)
        turn.tool_calls = [*turn.tool_calls, call]
        return
    turn.model = spend.action["name"]
    turn.reservation_id = spend.reservation_id
    turn.reserved = Money.of(spend.bound, spend.unit)
    turn.charged, turn.uncovered = charged, uncovered
    turn.actual_source = "bound"
    turn.charged_because = row_for(FACTS_OF_CRASH).reason


async def _release(spend: Spend, cycles: AsyncCyclesClient) -> None:
    request = {"idempotency_key": f"release-{spend.key}", "reason": "its process ended"}
    response = await cycles.release_reservation(spend.reservation_id, request)
    if not response.is_success and response.status not in (*_GONE, 410):
        body_of(response, f"release reservation {spend.reservation_id}")


async def _charge(delegation_id: str, spend: Spend, client: SpendClient) -> Settled | None:
    """Charge a spend; ``None`` if its process knew that nothing was spent, and had released it before it died.

    Raises:
        AuthorityError: the authority is unavailable or refuses the credentials.
    """
    cost = spend.bound if spend.charge is None else spend.charge
    request = {
        # The key by which the client library's journal repeats a commit that had left: only one of the two is charged.
        "idempotency_key": f"commit-{spend.key}",
        "actual": {"unit": spend.unit, "amount": cost},
        "metadata": {
            **spend.metadata,
            "delegation_id": delegation_id,
            "turn": spend.turn,
            "actual_source": "bound" if spend.charge is None else "usage",
            "settled_after_crash": True,
        },
    }
    if spend.charge is None:
        response = await client.charge(spend.reservation_id, request, key=spend.key)
        if response is None:
            return None
    else:
        response = await client.commit_reservation(spend.reservation_id, request)
    if response.is_success and not is_committed(response):
        raise AuthorityUnavailableError(
            f"The budget authority's answer to settling reservation {spend.reservation_id} cannot be read",
            status=response.status,
        )
    if not _is_settled(response):
        body_of(response, f"settle reservation {spend.reservation_id}")
    settled = client.take_settled(spend.reservation_id)
    return settled or await _charged_before(spend, client, cost)


async def _charged_before(spend: Spend, client: SpendClient, cost: int) -> Settled:
    """Return what the process was charged before it died.

    Raises:
        AuthorityError: the authority is unavailable or refuses the credentials.
    """
    response = await client.get_reservation(spend.reservation_id)
    charged = cost
    if response.status not in (*_GONE, 410):
        committed = body_of(response, f"look at reservation {spend.reservation_id}").get("committed")
        charged = min(int(committed["amount"]), cost) if committed else cost
    return Settled(charged=charged, uncovered=cost - charged)


def _is_settled(response: CyclesResponse) -> bool:
    if response.is_success:
        return True
    if response.status not in _GONE:
        return False
    code = (response.body or {}).get("error")
    if code != "IDEMPOTENCY_MISMATCH":
        logger.error("A spend could not be settled, and is given up (%s)", code)
    return True
