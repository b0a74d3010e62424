"""The delegations of one data directory: the operations of ``DelegationStore``, each within one transaction.

A delegation is *running* exactly while it has an owner. If an owner dies, another process adopts its delegations in one
transaction, so that no two ever settle the same spend. The transaction is the caller's (``database/file.py``).
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import apsw

from budget_server.delegations import cursors, rows
from budget_server.delegations.encoding import from_json, to_json
from budget_server.delegations.limits import Limits, left_microcents
from budget_server.delegations.pruning import prune
from budget_server.delegations.workers import WorkerRegistry
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import USD_MICROCENTS
from budget_tools.delegation.records import RESUMABLE, Status, Task
from budget_tools.delegation.store import Call, Message, Orphan, Outcome, Step, Stored
from budget_tools.spends.records import LimitReachedError, Spend

_NOTHING_LEFT: dict[Status, str] = {
    "completed": "is completed: delegate a new task instead",
    "refused": "was refused by the model, and would be again: delegate another task instead",
}


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The delegations taken over, and their owners before."""

    orphans: Sequence[Orphan]
    owners: Sequence[tuple[str, str]]
    """Each delegation with its previous owner."""
    reclaimed: Sequence[str]
    """The expired owners, whose files can be removed."""


class Delegations:
    """The operations over an open connection, independent of threads and event loops.

    Args:
        db: the connection.
        owners: the registry of owners, this process among them.
        limits: how many delegations there may be.
    """

    def __init__(self, db: apsw.Connection, owners: WorkerRegistry, limits: Limits) -> None:
        self._db = db
        self._owners = owners
        self._limits = limits
        self._now_ms = 0

    # -- the transaction's frame ------------------------------------------------------------------------------------

    def begin(self, wall_ms: int) -> bool:
        """Set the time of this transaction; nothing is ever due."""
        self._now_ms = wall_ms
        return False

    def remember_time(self) -> None:
        """Do nothing: no row depends on a clock."""

    # -- starting and resuming ---------------------------------------------------------------------------------------

    def start(self, call: Call, delegation_id: str, task: Task, *, parent_id: str, depth: int) -> Stored:
        """Store a new delegation as running here, or return the one that this call started before.

        Raises:
            InvalidArgumentError: as in ``DelegationStore``.
        """
        known_id = self._known(call)
        if known_id:
            return rows.stored(self._db, known_id)
        above = self._db.execute("SELECT tenant, depth FROM delegations WHERE delegation_id = ?", (parent_id,)).get
        if above is not None:
            tenant, above_depth = above
            if tenant != call.tenant:
                # The caller names the parent: it must not draw on another tenant's limit, nor escape its own.
                raise InvalidArgumentError(
                    f"The delegation {parent_id} that this one is nested in is another tenant's: nothing was started."
                )
            depth = max(depth, above_depth + 1)
        self._limits.check_depth(depth)
        self._limits.check_running(self._db, parent_id, self._owners.is_alive)
        self._db.execute(
            "INSERT INTO delegations (delegation_id, tenant, parent_id, depth, status, owner, budget_microcents,"
            " max_turns, created_at_ms, updated_at_ms, model, task)"
            " VALUES (?, ?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)",
            (
                delegation_id,
                call.tenant,
                parent_id or None,
                depth,
                self._owners.register(),
                task.budget_microcents,
                task.max_turns,
                self._now_ms,
                self._now_ms,
                task.model,
                to_json(task.model_dump(mode="json")),
            ),
        )
        self._remember(call, delegation_id)
        return rows.stored(self._db, delegation_id, is_new=True)

    def unstart(self, delegation_id: str) -> None:
        """Delete a delegation whose start was never acknowledged."""
        self._db.execute("DELETE FROM delegations WHERE delegation_id = ?", (delegation_id,))

    def resume(
        self, call: Call, delegation_id: str, *, max_turns: int | None, budget_microcents: int | None
    ) -> tuple[Stored, Stored]:
        """Mark a stopped delegation as running here again, or return the one that this call resumed before.

        Returns:
            The delegation now, and before the call.

        Raises:
            InvalidArgumentError: as in ``DelegationStore``.
        """
        known_id = self._known(call)
        if known_id:
            known = rows.stored(self._db, known_id)
            return known, known
        before = self.find(call.tenant, delegation_id)
        self._check_resumable(before)
        self._limits.check_running(self._db, before.parent_id, self._owners.is_alive)
        self._db.execute(
            "UPDATE delegations SET status = 'running', owner = ?, max_turns = coalesce(?, max_turns),"
            " budget_microcents = coalesce(?, budget_microcents), hint = '\"\"', structured = NULL,"
            " updated_at_ms = max(updated_at_ms, ?) WHERE delegation_id = ?",
            (self._owners.register(), max_turns, budget_microcents, self._now_ms, delegation_id),
        )
        self._remember(call, delegation_id)
        return rows.stored(self._db, delegation_id, is_new=True), before

    def unresume(self, call: Call, before: Stored) -> None:
        """Undo a resume that was never acknowledged."""
        self._db.execute(
            "UPDATE delegations SET status = ?, owner = NULL, is_cancel_requested = 0, max_turns = ?,"
            " budget_microcents = ?, hint = ?, structured = ? WHERE delegation_id = ?",
            (
                before.status,
                before.task.max_turns,
                before.task.budget_microcents,
                to_json(before.hint),
                None if before.structured is None else to_json(before.structured),
                before.delegation_id,
            ),
        )
        self._db.execute(
            "DELETE FROM calls WHERE tenant = ? AND idempotency_key = ?", (call.tenant, call.idempotency_key)
        )

    def knows(self, tenant: str, idempotency_key: str) -> bool:
        """Return whether a call under this key has started or resumed a delegation before."""
        select = "SELECT 1 FROM calls WHERE tenant = ? AND idempotency_key = ?"
        return bool(self._db.execute(select, (tenant, idempotency_key)).get)

    def _known(self, call: Call) -> str:
        """Return the delegation that this call started or resumed before; ``""`` for a new call.

        Raises:
            InvalidArgumentError: ``IDEMPOTENCY_MISMATCH``.
        """
        row = self._db.execute(
            "SELECT delegation_id, request_sha256 FROM calls WHERE tenant = ? AND idempotency_key = ?",
            (call.tenant, call.idempotency_key),
        ).fetchone()
        if row is None:
            return ""
        if row[1] != _sha256(call.request):
            message = f"idempotency_key {call.idempotency_key} was used before with another task: choose a new one."
            raise InvalidArgumentError(message, code="IDEMPOTENCY_MISMATCH")
        return str(row[0])

    def _remember(self, call: Call, delegation_id: str) -> None:
        self._db.execute(
            "INSERT INTO calls (tenant, idempotency_key, request_sha256, delegation_id) VALUES (?, ?, ?, ?)",
            (call.tenant, call.idempotency_key, _sha256(call.request), delegation_id),
        )

    def _check_resumable(self, stored: Stored) -> None:
        if stored.status in RESUMABLE:
            return
        if stored.status != "running":
            reason = _NOTHING_LEFT[stored.status]
        elif self._owners.is_alive(str(self._owner(stored.delegation_id))):
            reason = "is running: wait for it with delegation_status"
        else:
            reason = "is still being settled after its process ended: try again in a moment"
        raise InvalidArgumentError(f"The delegation {stored.delegation_id} {reason}.", code="NOT_RESUMABLE")

    # -- reading -----------------------------------------------------------------------------------------------------

    def find(self, tenant: str, delegation_id: str) -> Stored:
        """Return a delegation in its current state.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``.
        """
        self._check_exists(tenant, delegation_id)
        return rows.stored(self._db, delegation_id)

    def page(self, tenant: str, *, status: Status | None, limit: int, cursor: str) -> tuple[Sequence[Stored], str]:
        """Return a page of delegations, newest first, and the cursor of the next page.

        Raises:
            InvalidArgumentError: this store did not make the cursor.
        """
        after = cursors.read(cursor) if cursor else (2**63 - 1, "")
        found = self._db.execute(
            f"SELECT {rows.COLUMNS} FROM delegations WHERE tenant = ? AND (created_at_ms, delegation_id) < (?, ?)"  # noqa: S608 - constants
            " AND (?4 IS NULL OR status = ?4) ORDER BY created_at_ms DESC, delegation_id DESC LIMIT ?5",
            (tenant, *after, status, limit + 1),
        ).fetchall()
        page = [rows.of_row(self._db, row, turns=()) for row in found[:limit]]
        return page, cursors.write(page[-1]) if len(found) > limit else ""

    def conversation(self, delegation_id: str) -> Sequence[Message]:
        """Return the conversation since it was last rebuilt."""
        found = self._db.execute(
            "SELECT role, content, starts_anew FROM messages WHERE delegation_id = ?1 AND position >= coalesce("
            " (SELECT max(position) FROM messages WHERE delegation_id = ?1 AND starts_anew), 0) ORDER BY position",
            (delegation_id,),
        )
        return [
            Message(role=str(role), content=from_json(str(content)), starts_anew=bool(anew))
            for role, content, anew in found
        ]

    def left_microcents(self, delegation_id: str) -> int | None:
        """Return what the tightest limit still allows; ``None`` if no limit applies."""
        left = left_microcents(self._db, delegation_id)
        return None if left is None else max(left, 0)

    # -- writing -----------------------------------------------------------------------------------------------------

    def mark_in_flight(self, delegation_id: str, spend: Spend, struck: Collection[str]) -> None:
        """Store a spend before it may happen.

        Raises:
            LimitReachedError: it exceeds a limit; nothing was written.
        """
        self._assert_own(delegation_id)
        self._strike(delegation_id, [*struck, spend.reservation_id])
        left = left_microcents(self._db, delegation_id)
        if spend.unit == USD_MICROCENTS and left is not None and spend.bound > left:
            raise LimitReachedError(max(left, 0))
        rows.insert_spend(self._db, delegation_id, spend)
        self._touch(delegation_id)

    def write(self, delegation_id: str, step: Step) -> None:
        """Write a step of a delegation that this process owns."""
        self._assert_own(delegation_id)
        if step.turn is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO turns VALUES (?, ?, ?)",
                (delegation_id, step.turn.number, to_json(step.turn.model_dump(mode="json"))),
            )
        self._append(delegation_id, step.messages)
        self._db.execute(
            "UPDATE delegations SET text = coalesce(?, text), model = coalesce(?, model),"
            " spent_microcents = coalesce(?, spent_microcents) WHERE delegation_id = ?",
            (None if step.text is None else to_json(step.text), step.model, step.spent_microcents, delegation_id),
        )
        for reservation_id, charge in step.charges.items():
            self._db.execute(
                "UPDATE spends SET charge = ? WHERE delegation_id = ? AND reservation_id = ?",
                (charge, delegation_id, reservation_id),
            )
        self._strike(delegation_id, step.struck)
        if step.outcome is not None:
            self._let_go(delegation_id, step.outcome)
        self._touch(delegation_id)

    def _append(self, delegation_id: str, messages: Sequence[Message]) -> None:
        if not messages:
            return
        first = self._db.execute(
            "SELECT coalesce(max(position) + 1, 0) FROM messages WHERE delegation_id = ?", (delegation_id,)
        ).get
        assert isinstance(first, int)
        self._db.executemany(
            "INSERT INTO messages (delegation_id, position, starts_anew, role, content) VALUES (?, ?, ?, ?, ?)",
            [
                (delegation_id, position, int(message.starts_anew), message.role, to_json(message.content))
                for position, message in enumerate(messages, start=first)
            ],
        )

    def _strike(self, delegation_id: str, reservation_ids: Collection[str]) -> None:
        self._db.executemany(
            "DELETE FROM spends WHERE delegation_id = ? AND reservation_id = ?",
            [(delegation_id, reservation_id) for reservation_id in reservation_ids],
        )

    def _let_go(self, delegation_id: str, outcome: Outcome) -> None:
        assert outcome.status != "running", "a delegation that stopped does not run"
        self._db.execute(
            "UPDATE delegations SET status = ?, hint = ?, structured = ?, owner = NULL, is_cancel_requested = 0"
            " WHERE delegation_id = ?",
            (
                outcome.status,
                to_json(outcome.hint),
                None if outcome.structured is None else to_json(outcome.structured),
                delegation_id,
            ),
        )

    def _touch(self, delegation_id: str) -> None:
        self._db.execute(
            "UPDATE delegations SET updated_at_ms = max(updated_at_ms, ?) WHERE delegation_id = ?",
            (self._now_ms, delegation_id),
        )

    # -- between processes ------------------------------------------------------------------------------------------

    def request_cancel(self, tenant: str, delegation_id: str) -> None:
        """Ask the owner of a running delegation to stop it.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``.
        """
        self._check_exists(tenant, delegation_id)
        self._db.execute(
            "UPDATE delegations SET is_cancel_requested = 1 WHERE delegation_id = ? AND owner IS NOT NULL"
            " AND NOT is_cancel_requested",
            (delegation_id,),
        )

    def cancel_requests(self) -> Collection[str]:
        """Return the running delegations of this process for which a stop was requested."""
        found = self._db.execute(
            "SELECT delegation_id FROM delegations WHERE owner = ? AND is_cancel_requested", (self._owners.own_id,)
        )
        return {str(delegation_id) for (delegation_id,) in found}

    def take_over(self) -> TakenOver:
        """Take over the running delegations of dead owners."""
        reclaimed = self._owners.expired()
        running = self._db.execute(
            "SELECT owner, delegation_id FROM delegations WHERE owner IS NOT NULL ORDER BY owner, delegation_id"
        )
        taken: list[tuple[str, str]] = []
        for owner, of_owner in groupby(running.fetchall(), key=itemgetter(0)):
            if not self._owners.is_alive(str(owner)):
                taken += [(str(delegation_id), str(owner)) for _, delegation_id in of_owner]
        if taken:
            own_id = self._owners.register()
            self._set_owners([(delegation_id, own_id) for delegation_id, _ in taken])
        orphans = [
            Orphan(delegation=rows.stored(self._db, delegation_id), spends=rows.spends(self._db, delegation_id))
            for delegation_id, _ in taken
        ]
        return TakenOver(orphans, taken, reclaimed)

    def give_back(self, adopted: TakenOver) -> None:
        """Undo an adoption whose result was never received."""
        self._set_owners(adopted.owners)

    def _set_owners(self, owners: Sequence[tuple[str, str]]) -> None:
        self._db.executemany(
            "UPDATE delegations SET owner = ? WHERE delegation_id = ?",
            [(owner, delegation_id) for delegation_id, owner in owners],
        )

    def owns_any(self) -> bool:
        """Return whether this process still owns running delegations."""
        return bool(self._db.execute("SELECT 1 FROM delegations WHERE owner = ?", (self._owners.own_id,)).get)

    def prune(self, before_ms: int) -> int:
        """Delete delegations without any change since then, and return how many there were."""
        return prune(self._db, before_ms)

    # -- invariants --------------------------------------------------------------------------------------------------

    def _check_exists(self, tenant: str, delegation_id: str) -> None:
        if not self._db.execute(
            "SELECT 1 FROM delegations WHERE delegation_id = ? AND tenant = ?", (delegation_id, tenant)
        ).get:
            raise InvalidArgumentError(
                f"There is no delegation {delegation_id!r}: list_delegations shows those there are.", code="NOT_FOUND"
            )

    def _owner(self, delegation_id: str) -> object:
        return self._db.execute("SELECT owner FROM delegations WHERE delegation_id = ?", (delegation_id,)).get

    def _assert_own(self, delegation_id: str) -> None:
        owner = self._owner(delegation_id)
        assert owner == self._owners.own_id, f"{delegation_id} is run by {owner or 'no process'}, not by this one"


def _sha256(request: str) -> bytes:
    return hashlib.sha256(request.encode("utf-8", "surrogatepass")).digest()
