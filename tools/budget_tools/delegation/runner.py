"""The delegations that this process runs: they belong to it, not to the connection that asked for them.

All of them are in the store, so that any process of the same data directory can show one, resume it, or join a call
that was made before.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import anyio
from runcycles import AsyncCyclesClient

from budget_tools.claude.client import Claude
from budget_tools.claude.output_schema import OutputSchema
from budget_tools.core.errors import AuthorityError, BudgetError, ConfigurationError, InvalidArgumentError
from budget_tools.core.ids import time_ordered_id
from budget_tools.core.money import USD_MICROCENTS
from budget_tools.core.subjects import Subject
from budget_tools.delegation.loop import Delegation, Means
from budget_tools.delegation.records import Status, Task
from budget_tools.delegation.recovery import INTERRUPTED, settle_orphans
from budget_tools.delegation.store import Call, DelegationStore, Message, Orphan, Step, Stored
from budget_tools.delegation.views import DelegationView, Kept
from budget_tools.pricing.book import PriceBook
from budget_tools.spends.responses import remaining
from budget_tools.subagent_tools.toolbox import Toolbox

logger = logging.getLogger(__name__)

MAX_RUNNING = 16
"""Maximum number of delegations of one process at the same time."""

CANCEL_POLL_SECONDS = 1.0
"""How often the store is checked for requests of other processes to stop one of ours."""

_DAY_MS = 86_400_000

RETRY_SECONDS = 30.0
"""How long to wait before settling again what an unavailable authority left unsettled."""


class DelegationRunner:
    """Runner that starts delegations, finds them again, and stops those of this process when it ends.

    Args:
        cycles: the budget authority.
        claude: returns the gated client, once it is needed.
        prices: the prices in force.
        toolbox: the servers whose tools may be used.
        store: where delegations are kept; closed with this.
        depth: how deep this process is nested among delegations; 0 for a host's own.
        max_seconds: how long a delegation may run from start or resume.
        keep_days: how long one that stopped is kept.
    """

    def __init__(
        self,
        *,
        cycles: AsyncCyclesClient,
        claude: Callable[[], Claude],
        prices: PriceBook,
        toolbox: Toolbox,
        store: DelegationStore,
        depth: int = 0,
        max_seconds: float = 3_600.0,
        keep_days: int = 30,
    ) -> None:
        self._cycles = cycles
        self._claude = claude
        self._prices = prices
        self._max_seconds = max_seconds
        self._keep_days = keep_days
        self._has_pruned = False
        self._toolbox = toolbox
        self._store = store
        self._depth = depth
        self._running: dict[str, Delegation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._settling = asyncio.Lock()
        self._unsettled: list[Orphan] = []
        self._followers: Counter[str] = Counter()
        self._watcher: asyncio.Task[None] | None = None
        self._is_closed = False

    async def start(self, task: Task, idempotency_key: str, *, parent_id: str = "") -> DelegationView:
        """Start a delegation, or join the one that this key started.

        Raises:
            InvalidArgumentError: a limit or tool is wrong, too much is running, or the key came with another task;
                nothing was started.
            ConfigurationError: a tool's server does not start, or this process is ending; nothing was started.
        """
        self._check(task)
        means = self._means()
        call = _call(task.subject.tenant, idempotency_key, task.model_dump(mode="json"))
        async with self._starting:
            tools = await self._toolbox.open(task.tools)
            self._check_room()
            # Shielded: a delegation stored as running here must run here.
            with anyio.CancelScope(shield=True):
                stored = await self._store.start(
                    call, time_ordered_id(), task, parent_id=parent_id, depth=self._depth + 1
                )
                if stored.is_new:
                    return self._run(Delegation(stored, (), tools, means))
            return await self._view(stored)

    async def resume(
        self,
        spender: Subject,
        delegation_id: str,
        idempotency_key: str,
        *,
        max_turns: int | None,
        budget_microcents: int | None,
        ceiling_microcents: int | None = None,
        repeated: Mapping[str, object] = MappingProxyType({}),
        parent_id: str = "",
    ) -> DelegationView:
        """Resume a stopped delegation from its last finished turn, or join the call that resumed it.

        Args:
            spender: the subject that asks: one of the same tenant, and allowed to spend as the delegation does.
            delegation_id: its id.
            idempotency_key: of this call.
            max_turns: the new limit of its turns, earlier ones included; ``None`` leaves it.
            budget_microcents: the new limit of its charges, earlier ones included; ``None`` leaves it.
            ceiling_microcents: most that this limit may be, whatever it was before.
            repeated: fields of its task that the caller gave once more.
            parent_id: the delegation whose sub-agent asks; ``""`` for a host.

        Raises:
            InvalidArgumentError: it is unknown, spends as another subject, is running, was given another task, or has
                nothing left to do; nothing was changed.
            ConfigurationError: a tool's server does not start, or this process is ending; nothing was changed.
        """
        asked = {"resume": delegation_id, "max_turns": max_turns, "budget_microcents": budget_microcents}
        call = _call(spender.tenant, idempotency_key, asked)
        async with self._starting:
            await self.settle_orphans()
            before = await self._store.find(spender.tenant, delegation_id)
            if parent_id and before.parent_id != parent_id:
                # What it spends would not count towards the limits of the one that asks.
                raise InvalidArgumentError(
                    f"The delegation {delegation_id} was not made by yours: delegate a new task instead.",
                    code="NOT_RESUMABLE",
                )
            if not spender.reaches(before.task.subject):
                raise InvalidArgumentError(
                    f"The delegation {delegation_id} spends as {before.task.subject}, which is not yours to spend as: "
                    "delegate its task anew."
                )
            _check_repeated(before.task, repeated)
            if budget_microcents is None and ceiling_microcents is not None:
                own = before.task.budget_microcents
                budget_microcents = ceiling_microcents if own is None else min(own, ceiling_microcents)
            self._check(before.task)
            means = self._means()
            tools = await self._toolbox.open(before.task.tools)
            self._check_room()
            with anyio.CancelScope(shield=True):
                stored = await self._store.resume(
                    call, delegation_id, max_turns=max_turns, budget_microcents=budget_microcents
                )
                if stored.is_new:
                    return self._run(Delegation(stored, await self._conversation(delegation_id), tools, means))
            return await self._view(stored)

    async def _conversation(self, delegation_id: str) -> Sequence[Message]:
        """Read the conversation of a delegation that was just resumed here; if that fails, it does not run."""
        try:
            return await self._store.conversation(delegation_id)
        except BudgetError:
            await self._store.write(delegation_id, Step(outcome=INTERRUPTED))
            raise

    async def knows(self, tenant: str, idempotency_key: str) -> bool:
        """Return whether a call under this key, if it has one, would join a delegation, or repeat its answer."""
        return bool(idempotency_key) and await self._store.knows(tenant, idempotency_key)

    async def find(self, tenant: str, delegation_id: str, *, parent_id: str = "") -> DelegationView:
        """Return a delegation in its current state, whichever process runs it or ran it.

        Args:
            tenant: whose delegation.
            delegation_id: its id.
            parent_id: the delegation whose sub-agent asks, which finds only those that it made; ``""`` for a host.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``: a delegation of this id does not exist.
        """
        return await self._view(await self._find(tenant, delegation_id, parent_id))

    async def _find(self, tenant: str, delegation_id: str, parent_id: str) -> Stored:
        stored = await self._store.find(tenant, delegation_id)
        if parent_id and stored.parent_id != parent_id:
            raise InvalidArgumentError(f"You made no delegation {delegation_id!r}.", code="NOT_FOUND")
        return stored

    async def transcript(self, tenant: str, delegation_id: str) -> tuple[Stored, Sequence[Message]]:
        """Return a delegation as it is stored, with its whole conversation.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``.
        """
        stored = await self._store.find(tenant, delegation_id)
        return stored, await self._store.conversation(delegation_id)

    async def list(
        self, tenant: str, *, status: Status | None = None, limit: int = 20, cursor: str = ""
    ) -> tuple[Sequence[Stored], str]:
        """Return a tenant's delegations, the newest first, and the cursor of the next page.

        Raises:
            InvalidArgumentError: the cursor was not issued here.
        """
        return await self._store.list(tenant, status=status, limit=limit, cursor=cursor)

    async def cancel(self, tenant: str, delegation_id: str, *, parent_id: str = "") -> None:
        """Stop a delegation, whichever process runs it; what is in flight is settled.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``, as in ``find``.
        """
        await self._find(tenant, delegation_id, parent_id)
        here = self._running.get(delegation_id)
        if here is not None:
            here.stop.request()
        else:
            await self._store.request_cancel(tenant, delegation_id)

    @contextmanager
    def following(self, delegation_id: str) -> Iterator[Callable[[], bool]]:
        """Count a call that waits for a delegation, while it does; the yielded function tells whether others wait."""
        self._followers[delegation_id] += 1
        try:
            yield lambda: self._followers[delegation_id] > 1
        finally:
            self._followers[delegation_id] -= 1
            if not self._followers[delegation_id]:
                del self._followers[delegation_id]

    async def settle_orphans(self) -> bool:
        """Settle what killed processes left behind; return whether all of it could be settled."""
        async with self._settling:
            return await settle_orphans(self._store, self._cycles, self._unsettled)

    async def keep_settling_orphans(self) -> None:
        """Settle what killed processes left behind, repeatedly while the authority or the store is unavailable."""
        while True:
            try:
                if await self.settle_orphans():
                    return
            except BudgetError as exc:
                logger.warning("What earlier processes left behind is not settled yet: %s", exc.message)
            await anyio.sleep(RETRY_SECONDS)

    async def aclose(self) -> None:
        """Stop everything that runs, refuse new starts, and wait until all is settled."""
        self._is_closed = True
        for delegation in self._running.values():
            delegation.stop.request()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self._store.aclose()

    def _means(self) -> Means:
        """Return the shared dependencies of delegations.

        Raises:
            ConfigurationError: no API key is set.
        """
        return Means(
            cycles=self._cycles,
            claude=self._claude(),
            prices=self._prices,
            store=self._store,
            max_seconds=self._max_seconds,
        )

    def _check(self, task: Task) -> None:
        """Check that a task can be done.

        Raises:
            InvalidArgumentError: a model has no price or is retired, or the schema is not valid.
        """
        today = datetime.now(UTC).date()
        for model in (task.model, *task.fallback_models):
            retires_on = self._prices.price(model).retires_on
            if retires_on is not None and retires_on <= today:
                raise InvalidArgumentError(self._prices.lifecycle_note(model), code="RETIRED_MODEL")
        if task.output_schema is not None:
            OutputSchema.parse(task.output_schema)

    def _check_room(self) -> None:
        if self._is_closed:
            raise ConfigurationError("This server is ending: nothing new is delegated.")
        if len(self._running) >= MAX_RUNNING:
            raise InvalidArgumentError(
                f"{MAX_RUNNING} delegations are running here already: wait for one to end.",
                code="TOO_MANY_DELEGATIONS",
            )

    def _run(self, delegation: Delegation) -> Delegation:
        # A task of the process: the call that asked for it may be cut off long before it is done.
        task = asyncio.create_task(delegation.run(), name=f"delegation-{delegation.id}")
        self._running[delegation.id] = delegation
        self._keep_until_done(task)

        task.add_done_callback(lambda _: self._running.pop(delegation.id, None))
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_cancel_requests(), name="delegation-cancel-requests")
        if not self._has_pruned:
            self._has_pruned = True
            self._keep_until_done(asyncio.create_task(self._prune(), name="delegation-pruning"))
        return delegation

    def _keep_until_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prune(self) -> None:
        """Delete what stopped long ago."""
        before_ms = time.time_ns() // 1_000_000 - self._keep_days * _DAY_MS
        try:
            await self._store.prune(before_ms)
        except BudgetError as exc:
            logger.warning("Old delegations were not forgotten: %s", exc.message)

    async def _watch_cancel_requests(self) -> None:
        """Watch for requests of other processes to stop one of ours, while any runs."""
        while self._running:
            await anyio.sleep(CANCEL_POLL_SECONDS)
            try:
                for delegation_id in await self._store.cancel_requests():
                    if (delegation := self._running.get(delegation_id)) is not None:
                        delegation.stop.request()
            except BudgetError as exc:
                logger.warning("Whether a delegation is to stop is not known: %s", exc.message)

    async def _view(self, stored: Stored) -> DelegationView:
        here = self._running.get(stored.delegation_id)
        if here is not None:
            return here
        if stored.status == "running":
            stored = await self._look(stored)
        try:
            left = await remaining(self._cycles, stored.task.subject, USD_MICROCENTS)
        except AuthorityError:
            left = None
        return Kept(stored, self._look, left)

    async def _look(self, stored: Stored) -> Stored:
        """Read a delegation that ran elsewhere again; if its process has died, settle it, and it no longer runs."""
        await self.settle_orphans()
        return await self._store.find(stored.tenant, stored.delegation_id)


_ARGUMENTS: Mapping[str, str] = {"levels": "subject", "dimensions": "subject"}
"""A caller's names for fields of a task, if they differ."""


def _check_repeated(task: Task, repeated: Mapping[str, object]) -> None:
    """Raise if a resume names another task than the stored one.

    Raises:
        InvalidArgumentError: it names the first field that differs.
    """
    for name, value in repeated.items():
        if getattr(task, name) != value:
            raise InvalidArgumentError(
                f"{_ARGUMENTS.get(name, name)} is another than this delegation's: resume goes on with what was "
                "delegated, so leave it out; only max_turns and budget_usd may change."
            )


def _call(tenant: str, idempotency_key: str, asked: Mapping[str, Any]) -> Call:
    request = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return Call(tenant=tenant, idempotency_key=idempotency_key, request=request)
