"""Where delegations outlive their process: what the loop asks of a store, and the data that passes between them.

A store is shared by all processes of one data directory. Each of them *owns* the delegations that it runs; the store
knows which owners still live, without leases and without clocks. What an owner leaves behind when it is killed are
*orphans*: their spends that were in flight must be settled (``recovery.py``), then the delegation can be resumed.

A *spend* is written down before it may happen and struck out once it is settled with the budget authority. Money that
is held and not yet spent is a spend too (``is_hold``), so that nothing stays held when its process is gone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from budget_tools.delegation.records import Status, Task, TurnRecord
from budget_tools.spends.records import Spend


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of ``delegate_to_claude``, by which its repetition is known."""

    tenant: str
    idempotency_key: str
    request: str
    """Canonical JSON of what was asked; the same key with another request is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of the conversation, as the Messages API takes it."""

    role: str
    content: str | Sequence[Mapping[str, Any]]
    starts_anew: bool = False
    """Whether the conversation begins again here: what stands before it is history that is no longer sent."""

    def wire(self) -> dict[str, Any]:
        """Give the message as the API takes it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a delegation stopped."""

    status: Status
    hint: str = ""
    structured: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one write adds to a delegation: all of it is stored, or none."""

    turn: TurnRecord | None = None
    """A turn as it stands now; it replaces what was stored under its number."""
    messages: Sequence[Message] = ()
    """Appended to the conversation."""
    text: str | None = None
    """The sub-agent's last words, if there are new ones."""
    model: str | None = None
    """The model that goes on, if it changed."""
    spent_microcents: int | None = None
    """What the delegation was charged so far, in all."""
    charges: Mapping[str, int] = field(default_factory=dict)
    """What spends turned out to cost, by reservation; they stay until they are struck out."""
    struck: Collection[str] = ()
    """Reservations whose spend is settled."""
    outcome: Outcome | None = None
    """The end: the owner lets go of the delegation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A delegation as the store has it."""

    delegation_id: str
    tenant: str
    task: Task
    status: Status
    model: str
    """The model that its last turn asked, or that its first will."""
    hint: str = ""
    text: str = ""
    structured: Any = None
    turns: Sequence[TurnRecord] = ()
    spent_microcents: int = 0
    children_spent_microcents: int = 0
    """What delegations that its sub-agent made were charged, and theirs."""
    parent_id: str = ""
    depth: int = 1
    """1 for a host's own delegation, 2 for one that its sub-agent made, and so on."""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    is_new: bool = False
    """Whether this very call started or resumed it; otherwise the call joins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """A delegation whose owner died while it ran, and what it had in flight."""

    delegation: Stored
    spends: Sequence[Spend]


class DelegationStore(Protocol):
    """The delegations of one data directory. Every method is one transaction, durable when it returns."""

    async def start(self, call: Call, delegation_id: str, task: Task, *, parent_id: str, depth: int) -> Stored:
        """Store a new delegation as running here, or give the one that this key started before (``is_new`` tells).

        Args:
            call: who asks, and what.
            delegation_id: the id of the new one.
            task: what is delegated.
            parent_id: the delegation whose sub-agent asked; ``""`` for a host. One that this store does not know
                (it runs elsewhere) limits nothing.
            depth: how deep it is nested, as far as the process knows; the parent's own depth counts where it is known.

        Raises:
            InvalidArgumentError: ``IDEMPOTENCY_MISMATCH``, ``TOO_MANY_DELEGATIONS`` (running in all, or of one
                parent) or ``NESTED_TOO_DEEP``; nothing was written.
        """

    async def knows(self, tenant: str, idempotency_key: str) -> bool:
        """Say whether a call under this key has started or resumed a delegation before."""

    async def resume(
        self, call: Call, delegation_id: str, *, max_turns: int | None, budget_microcents: int | None
    ) -> Stored:
        """Make a stopped delegation run here again, under new limits where they are given; a repeated key joins.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``, ``NOT_RESUMABLE`` (it is running, or has nothing left to do),
                ``IDEMPOTENCY_MISMATCH`` or ``TOO_MANY_DELEGATIONS``; nothing was written.
        """

    async def find(self, tenant: str, delegation_id: str) -> Stored:
        """Give a delegation as it stands.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``: this tenant has none of this id.
        """

    async def list(
        self, tenant: str, *, status: Status | None = None, limit: int = 20, cursor: str = ""
    ) -> tuple[Sequence[Stored], str]:
        """Give delegations, the newest first, without their turns; and the cursor of the next page, ``""`` at the end.

        Raises:
            InvalidArgumentError: the cursor is none of this store's.
        """

    async def conversation(self, delegation_id: str) -> Sequence[Message]:
        """Give the conversation since it last started anew, in order."""

    async def left_microcents(self, delegation_id: str) -> int | None:
        """Say what the tightest limit of this delegation and of those it was made under still allows.

        A limit is used up by what its delegation and all below it were charged, have in flight and hold. ``None``
        where there is no limit.
        """

    async def mark_in_flight(self, delegation_id: str, spend: Spend, *, struck: Collection[str] = ()) -> None:
        """Write a spend down before it may happen.

        Args:
            delegation_id: whose spend.
            spend: a hold of the same reservation is replaced by it.
            struck: as in ``Step``.

        Raises:
            LimitReachedError: it passes a limit (units other than US dollars pass none); nothing was written.
        """

    async def write(self, delegation_id: str, step: Step) -> None:
        """Add to a delegation that this process owns."""

    async def request_cancel(self, tenant: str, delegation_id: str) -> None:
        """Ask the owner of a running delegation to stop it; nothing where it does not run.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``.
        """

    async def cancel_requests(self) -> Collection[str]:
        """Give the delegations of this process that somebody asked to stop, and that still run."""

    async def orphans(self) -> Sequence[Orphan]:
        """Take over the delegations whose owners died: they are this process's until their ``outcome`` is written."""

    async def prune(self, before_ms: int) -> int:
        """Forget stopped delegations that nothing happened to since then, once nothing of theirs is in flight.

        Returns:
            How many were forgotten.
        """

    async def aclose(self) -> None:
        """Close it; what this process still owns are orphans from now on."""
