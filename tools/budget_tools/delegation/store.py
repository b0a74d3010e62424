"""The store of delegations, which outlive their process: its protocol, and the data that passes through it.

A store is shared by all processes of one data directory. Each of them *owns* the delegations that it runs; the store
knows which owners are still alive, without leases and without clocks. The delegations of a killed owner are *orphans*:
their spends that were in flight must be settled (``recovery.py``), then the delegation can be resumed.

A *spend* is written down before it may happen and deleted once it is settled with the budget authority. Money that is
held and not yet spent is a spend too (``is_hold``), so that nothing stays held when its process is gone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from budget_tools.delegation.records import Status, Task, TurnRecord
from budget_tools.spends.records import Spend


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of ``delegate_to_claude``, by which its repetition is recognized."""

    tenant: str
    idempotency_key: str
    request: str
    """Canonical JSON of the request; the same key with another request is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of the conversation, in the API's form."""

    role: str
    content: str | Sequence[Mapping[str, Any]]
    starts_anew: bool = False
    """Whether the conversation begins again here: earlier messages are history that is no longer sent."""

    def wire(self) -> dict[str, Any]:
        """Return the message in the API's form."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """End of a delegation that stopped."""

    status: Status
    hint: str = ""
    structured: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The additions of one write to a delegation: all of them are stored, or none."""

    turn: TurnRecord | None = None
    """A turn in its current state; it replaces what was stored under its number."""
    messages: Sequence[Message] = ()
    """Appended to the conversation."""
    text: str | None = None
    """The sub-agent's last words, if there are new ones."""
    model: str | None = None
    """The model from now on, if it changed."""
    spent_microcents: int | None = None
    """The total that the delegation was charged so far."""
    charges: Mapping[str, int] = field(default_factory=dict)
    """Costs of spends, by reservation; they stay until they are deleted."""
    struck: Collection[str] = ()
    """Reservations whose spend is settled."""
    outcome: Outcome | None = None
    """The end: the owner gives the delegation up."""


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
    """Charges of the delegations that its sub-agent made, and of theirs."""
    parent_id: str = ""
    depth: int = 1
    """1 for a host's own delegation, 2 for one that its sub-agent made, and so on."""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    is_new: bool = False
    """Whether this very call started or resumed it; otherwise the call joins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """A delegation whose owner died while it ran, with its spends in flight."""

    delegation: Stored
    spends: Sequence[Spend]


class DelegationStore(Protocol):
    """The delegations of one data directory. Every method is one transaction, durable when it returns."""

    async def start(self, call: Call, delegation_id: str, task: Task, *, parent_id: str, depth: int) -> Stored:
        """Store a new delegation as running here, or return the one that this key started before (``is_new`` tells).

        Args:
            call: the caller and the request.
            delegation_id: the id of the new one.
            task: what is delegated.
            parent_id: the delegation whose sub-agent asked; ``""`` for a host. A parent that this store does not know
                (it runs elsewhere) sets no limit.
            depth: how deep it is nested, as far as the process knows; the parent's own depth counts if it is known.

        Raises:
            InvalidArgumentError: ``IDEMPOTENCY_MISMATCH``, ``TOO_MANY_DELEGATIONS`` (running in all, or of one
                parent) or ``NESTED_TOO_DEEP``; nothing was written.
        """

    async def knows(self, tenant: str, idempotency_key: str) -> bool:
        """Return whether a call under this key has started or resumed a delegation before."""

    async def resume(
        self, call: Call, delegation_id: str, *, max_turns: int | None, budget_microcents: int | None
    ) -> Stored:
        """Mark a stopped delegation as running here again, under new limits if there are any; a repeated key joins.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``, ``NOT_RESUMABLE`` (it is running, or has nothing left to do),
                ``IDEMPOTENCY_MISMATCH`` or ``TOO_MANY_DELEGATIONS``; nothing was written.
        """

    async def find(self, tenant: str, delegation_id: str) -> Stored:
        """Return a delegation in its current state.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``: this tenant has no delegation of this id.
        """

    async def list(
        self, tenant: str, *, status: Status | None = None, limit: int = 20, cursor: str = ""
    ) -> tuple[Sequence[Stored], str]:
        """Return delegations, the newest first, without their turns, and the next page's cursor, ``""`` at the end.

        Raises:
            InvalidArgumentError: the cursor was not issued by this store.
        """

    async def conversation(self, delegation_id: str) -> Sequence[Message]:
        """Return the conversation since it last began again, in order."""

    async def left_microcents(self, delegation_id: str) -> int | None:
        """Return what the tightest limit of this delegation and of those it was made under still allows.

        A limit is used up by what its delegation and all below it were charged, have in flight and hold. ``None`` if
        there is no limit.
        """

    async def mark_in_flight(self, delegation_id: str, spend: Spend, *, struck: Collection[str] = ()) -> None:
        """Write a spend down before it may happen.

        Args:
            delegation_id: whose spend.
            spend: replaces a hold of the same reservation.
            struck: as in ``Step``.

        Raises:
            LimitReachedError: it passes a limit (units other than US dollars have none); nothing was written.
        """

    async def write(self, delegation_id: str, step: Step) -> None:
        """Write additions to a delegation that this process owns."""

    async def request_cancel(self, tenant: str, delegation_id: str) -> None:
        """Ask the owner of a running delegation to stop it; do nothing if it does not run.

        Raises:
            InvalidArgumentError: ``NOT_FOUND``.
        """

    async def cancel_requests(self) -> Collection[str]:
        """Return the delegations of this process that were asked to stop, and that still run."""

    async def orphans(self) -> Sequence[Orphan]:
        """Take over the delegations whose owners died: this process owns them until their ``outcome`` is written."""

    async def prune(self, before_ms: int) -> int:
        """Delete delegations that stopped and did not change since then, once they have nothing in flight.

        Returns:
            How many were deleted.
        """

    async def aclose(self) -> None:
        """Close the store; delegations that this process still owns are orphans from now on."""
