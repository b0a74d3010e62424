"""The delegations file for coroutines: the operations of the loop's store, each as one durable transaction.

A start, resume or adoption whose caller is cancelled before it returns leaves no delegation running without a runner.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from budget_server.database.asynchronous import AsyncFile
from budget_server.database.file import LOCK_DEADLINE_SECONDS, DurableFile, wall_ms
from budget_server.database.writer import Writer
from budget_server.delegations.delegations import Delegations
from budget_server.delegations.limits import MAX_CHILDREN, MAX_DEPTH, MAX_RUNNING, Limits
from budget_server.delegations.schema import DELEGATIONS_KIND
from budget_server.delegations.workers import WorkerRegistry
from budget_tools.core.errors import InvalidArgumentError, StorageUnavailableError
from budget_tools.delegation.records import Status, Task
from budget_tools.delegation.store import Call, DelegationStore, Message, Orphan, Step, Stored
from budget_tools.spends.records import Spend

DELEGATIONS_FILE = "delegations.sqlite3"


class SqliteDelegationStore(DelegationStore):
    """The delegations of one data directory, shared by its processes.

    Args:
        directory: the data directory; created, for its owner alone, if it is absent.
        max_running: most delegations that run in all processes.
        max_children: most running ones of one delegation's sub-agent.
        max_depth: deepest nesting; a delegation started by a host has depth 1.
        clock: returns the time in milliseconds since the epoch.
        lock_deadline_seconds: longest wait for other processes.

    Raises:
        ConfigurationError: the path cannot be written, or the file is not one that this version knows.
        StorageUnavailableError: another process held it past the deadline; every method may raise this too, having
            written nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_running: int = MAX_RUNNING,
        max_children: int = MAX_CHILDREN,
        max_depth: int = MAX_DEPTH,
        clock: Callable[[], int] = wall_ms,
        lock_deadline_seconds: float = LOCK_DEADLINE_SECONDS,
    ) -> None:
        limits = Limits(max_running=max_running, max_children=max_children, max_depth=max_depth)
        self._owners = WorkerRegistry(directory)
        self._file = AsyncFile(
            Writer(
                DurableFile(
                    directory / DELEGATIONS_FILE,
                    DELEGATIONS_KIND,
                    lambda db: Delegations(db, self._owners, limits),
                    clock=clock,
                    lock_deadline_seconds=lock_deadline_seconds,
                )
            )
        )

    async def start(self, call: Call, delegation_id: str, task: Task, *, parent_id: str, depth: int) -> Stored:
        """Store a new delegation as running here, or return the one that this key started before."""
        _check_storable(idempotency_key=call.idempotency_key)

        def undo(delegations: Delegations, stored: Stored) -> None:
            if stored.is_new:
                delegations.unstart(stored.delegation_id)

        return await self._file.run(
            lambda delegations: delegations.start(call, delegation_id, task, parent_id=parent_id, depth=depth), undo
        )

    async def resume(
        self, call: Call, delegation_id: str, *, max_turns: int | None, budget_microcents: int | None
    ) -> Stored:
        """Mark a stopped delegation as running here again, under new limits if any are given; a repeated key joins."""
        _check_storable(idempotency_key=call.idempotency_key, delegation_id=delegation_id)

        def undo(delegations: Delegations, resumed: tuple[Stored, Stored]) -> None:
            stored, before = resumed
            if stored.is_new:
                delegations.unresume(call, before)

        stored, _ = await self._file.run(
            lambda delegations: delegations.resume(
                call, delegation_id, max_turns=max_turns, budget_microcents=budget_microcents
            ),
            undo,
        )
        return stored

    async def knows(self, tenant: str, idempotency_key: str) -> bool:
        """Return whether a call under this key was made before."""
        _check_storable(idempotency_key=idempotency_key)
        return await self._file.run(lambda delegations: delegations.knows(tenant, idempotency_key))

    async def find(self, tenant: str, delegation_id: str) -> Stored:
        """Return a delegation in its current state."""
        _check_storable(delegation_id=delegation_id)
        return await self._file.run(lambda delegations: delegations.find(tenant, delegation_id))

    async def list(
        self, tenant: str, *, status: Status | None = None, limit: int = 20, cursor: str = ""
    ) -> tuple[Sequence[Stored], str]:
        """Return delegations, newest first, without their turns, and the cursor of the next page."""
        _check_storable(cursor=cursor)
        return await self._file.run(
            lambda delegations: delegations.page(tenant, status=status, limit=limit, cursor=cursor), is_brief=False
        )

    async def conversation(self, delegation_id: str) -> Sequence[Message]:
        """Return the conversation since it was last rebuilt, in order."""
        return await self._file.run(lambda delegations: delegations.conversation(delegation_id), is_brief=False)

    async def left_microcents(self, delegation_id: str) -> int | None:
        """Return the amount that the tightest limit of this delegation and those above it still allows."""
        return await self._file.run(lambda delegations: delegations.left_microcents(delegation_id))

    async def mark_in_flight(self, delegation_id: str, spend: Spend, *, struck: Collection[str] = ()) -> None:
        """Store a spend before it may happen."""
        await self._file.run(lambda delegations: delegations.mark_in_flight(delegation_id, spend, struck))

    async def write(self, delegation_id: str, step: Step) -> None:
        """Write a step of a delegation that this process owns."""
        await self._file.run(lambda delegations: delegations.write(delegation_id, step))

    async def request_cancel(self, tenant: str, delegation_id: str) -> None:
        """Ask the owner of a running delegation to stop it; do nothing if it is not running."""
        _check_storable(delegation_id=delegation_id)
        await self._file.run(lambda delegations: delegations.request_cancel(tenant, delegation_id))

    async def cancel_requests(self) -> Collection[str]:
        """Return the delegations of this process for which a stop was requested, and that still run."""
        if not self._owners.own_id:
            return ()
        return await self._file.run(Delegations.cancel_requests)

    async def orphans(self) -> Sequence[Orphan]:
        """Take over the delegations of dead owners: they belong to this process until their ``outcome`` is written."""
        adopted = await self._file.run(Delegations.take_over, Delegations.give_back, is_brief=False)
        for owner_id in adopted.reclaimed:
            self._owners.remove(owner_id)
        return adopted.orphans

    async def prune(self, before_ms: int) -> int:
        """Delete stopped delegations without any change since then, once none of their spends is in flight.

        Delegations that one delegation's sub-agents started are deleted together with it, and not before: its limit
        counts them.
        """
        return await self._file.run(lambda delegations: delegations.prune(before_ms), is_brief=False)

    async def aclose(self) -> None:
        """Close the store; delegations that this process still owns are orphans from now on."""
        try:
            leaves_orphans = await self._file.run(Delegations.owns_any)
        except StorageUnavailableError:
            leaves_orphans = True  # the next process that looks will find out
        await self._file.aclose()
        self._owners.close(leaves_orphans=leaves_orphans)


def _check_storable(**arguments: str) -> None:
    """Check that a file can store these texts: half of a surrogate pair cannot be encoded.

    Raises:
        InvalidArgumentError: names the argument.
    """
    for name, value in arguments.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"{name} holds half of a surrogate pair: correct it.") from None
