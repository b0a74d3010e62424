"""The auditor of the delegations file: whether it is whole, and each delegation's turns add up to its charge.

It opens the file by itself, changes nothing, and sees one consistent snapshot of it. It returns the money it read so
that its caller can compare it with the ledger (``maintenance/consistency.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from pydantic import ValidationError

from budget_server.database.audit import damage, one_moment
from budget_server.delegations import rows
from budget_server.delegations.encoding import from_json
from budget_server.delegations.schema import DELEGATIONS_KIND
from budget_tools.delegation.log import turn_cost_microcents
from budget_tools.delegation.records import TurnRecord
from budget_tools.spends.records import Spend


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """The money of one delegation, as the delegation records it."""

    delegation_id: str
    turns: Sequence[TurnRecord]
    spends: Sequence[Spend]
    """Spends in flight or reserved: not settled yet, as far as the delegation knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DelegationAudit:
    """The findings of an audit, and the money of each delegation."""

    findings: list[str]
    told: list[Told] = field(default_factory=list)


def audit(path: Path) -> DelegationAudit:
    """Check a whole delegations file; nothing in it is changed.

    Raises:
        apsw.Error: the file cannot be opened or read at all.
    """
    with one_moment(path) as db:
        findings = list(damage(db, DELEGATIONS_KIND))
        if findings:
            return DelegationAudit(findings=findings)
        told: list[Told] = []
        for delegation_id, spent in db.execute("SELECT delegation_id, spent_microcents FROM delegations").fetchall():
            name, total = str(delegation_id), int(str(spent))
            try:
                turns = _turns(db, name)
                told.append(Told(delegation_id=name, turns=turns, spends=rows.spends(db, name)))
                _read_words(db, name)
            except (ValueError, ValidationError):
                findings.append(f"Delegation {name}: what it did or said cannot be read.")
                continue
            findings += _misstatements(db, name, total, turns)
        return DelegationAudit(findings=findings, told=told)


def _turns(db: apsw.Connection, delegation_id: str) -> list[TurnRecord]:
    found = db.execute("SELECT number, record FROM turns WHERE delegation_id = ? ORDER BY number", (delegation_id,))
    turns = []
    for number, record in found:
        turn = TurnRecord.model_validate(from_json(str(record)))
        if turn.number != number:
            raise ValueError("a turn stands under another's number")
        turns.append(turn)
    return turns


def _read_words(db: apsw.Connection, delegation_id: str) -> None:
    """Parse every JSON column of a delegation.

    Raises:
        ValueError: one of them is not JSON.
    """
    found = db.execute(
        "SELECT task, hint, text, coalesce(structured, 'null') FROM delegations WHERE delegation_id = ?1"
        " UNION ALL SELECT content, 'null', 'null', 'null' FROM messages WHERE delegation_id = ?1",
        (delegation_id,),
    )
    for values in found:
        for value in values:
            from_json(str(value))


def _misstatements(db: apsw.Connection, name: str, spent: int, turns: Sequence[TurnRecord]) -> Iterator[str]:
    total = sum(turn_cost_microcents(turn) for turn in turns)
    if total != spent:
        yield f"Delegation {name} has {spent} microcents spent, and its turns were charged {total}."
    for turn in turns:
        if turn.charged is None:
            continue
        where = f"Turn {turn.number} of delegation {name}"
        cost = turn.charged.amount + (0 if turn.uncovered is None else turn.uncovered.amount)
        # An endpoint may report more than was reserved; no other charge may exceed it.
        if turn.reserved is None or turn.charged.amount < 0:
            yield f"{where} was charged {turn.charged.amount}, and had reserved nothing."
        elif cost > turn.reserved.amount and turn.actual_source != "usage":
            yield f"{where} was charged {turn.charged.amount}, which is not within what it had reserved."
        elif turn.actual_source == "bound" and cost != turn.reserved.amount:
            yield f"{where} was charged {turn.charged.amount} as its bound, and its bound is {turn.reserved.amount}."
    count, last = db.execute(
        "SELECT count(*), coalesce(max(position) + 1, 0) FROM messages WHERE delegation_id = ?", (name,)
    ).fetchone() or (0, 0)
    if count != last:
        yield f"Delegation {name} has lost a part of its conversation: {count} messages of {last} are there."
