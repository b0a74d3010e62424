"""Settlement of known spend that survives a crash of this process, a broken connection and a lost answer.

    what the authority says to a commit, or to an event     what is done
    success, exactly as the protocol has it                 settled; deleted from the journal
    expired                                                 booked as an event, under the same key
    another refusal that the protocol knows                 reported to the caller; deleted
    nothing, 5xx, or a malformed success                    the same key again, at once; then in the background
    slow down                                               the same key again, after the time asked for
    wrong credentials                                       kept for the next start; a person has to correct them

The journal is the client library's own, a file for each reservation, written before the first request leaves: the next
start repeats the records still in it. A ledger in this process does not need a journal: a commit is one transaction of
it, its answer cannot be lost on a network, and a separate file would not be safer than the ledger's.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
from pydantic import BaseModel, ValidationError
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse
from runcycles.journal import CommitJournal, PendingCommitRecord, auth_fingerprint
from runcycles.models import ErrorCode
from runcycles.retry import AsyncCommitRetryEngine

from budget_tools.core.errors import AuthorityError
from budget_tools.spends.responses import DENIALS

MOST_REMEMBERED = 2_000
"""Number of unsettled reservations that a process remembers; older ones cannot be booked after they expire."""


@dataclass(kw_only=True, slots=True)
class Reserved:
    """The purpose of a reservation, which an event has to state again.

    Attributes:
        subject: the subject that spends.
        action: what the money is spent on.
        key: the key under which it is settled, or being settled. For an expired reservation the authority would book
            any number of events.
    """

    subject: Mapping[str, Any]
    action: Mapping[str, Any]
    key: str = ""


class Reservations:
    """The reservations of this process and what they were for; the authority no longer says it once one has expired."""

    def __init__(self) -> None:
        self._reserved: OrderedDict[str, Reserved] = OrderedDict()

    def remember(self, reservation_id: str, *, subject: Mapping[str, Any], action: Mapping[str, Any]) -> None:
        """Record what a new reservation is for."""
        self._reserved[reservation_id] = Reserved(subject=subject, action=action)
        if len(self._reserved) > MOST_REMEMBERED:
            self._reserved.popitem(last=False)

    def action_of(self, reservation_id: str) -> Mapping[str, Any] | None:
        """Return the action of a reservation of this process; ``None`` if it is not known here."""
        reserved = self._reserved.get(reservation_id)
        return None if reserved is None else reserved.action

    def forget(self, reservation_id: str) -> None:
        """Forget a reservation that the authority has settled, and so will not settle again."""
        self._reserved.pop(reservation_id, None)

    def settling(self, reservation_id: str, key: str) -> str:
        """Record the key under which a reservation is being settled; return the earlier key, if there is another."""
        reserved = self._reserved.get(reservation_id)
        if reserved is None:
            return ""
        reserved.key = reserved.key or key
        return "" if reserved.key == key else reserved.key

    def unsettled(self, reservation_id: str, key: str) -> None:
        """Record that settling a reservation under this key had no result."""
        reserved = self._reserved.get(reservation_id)
        if reserved is not None and reserved.key == key:
            reserved.key = ""

    def event_instead(self, reservation_id: str, commit: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the event that books a commit whose reservation has expired; ``None`` if its purpose is not known."""
        reserved = self._reserved.get(reservation_id)
        if reserved is None:
            return None
        return {
            **commit,
            "subject": dict(reserved.subject),
            "action": dict(reserved.action),
            "metadata": {**commit.get("metadata", {}), "recovered_reservation_id": reservation_id},
        }


class Journal:
    """The client library's commit journal, and the engine that repeats its records.

    Created within a running event loop, it begins to repeat what earlier processes left in it.

    Args:
        config: where the journal and the authority are, and how patiently a record is repeated.
        client: what the records are sent through.
    """

    def __init__(self, config: CyclesConfig, client: AsyncCyclesClient) -> None:
        assert config.journal_dir is not None
        identity = auth_fingerprint(config.base_url, config.api_key, config.tenant)
        self._base_url = config.base_url
        self._files = CommitJournal(Path(config.journal_dir) / identity)
        self._engine = AsyncCommitRetryEngine(config)
        self._engine.set_client(client)

    def note_commit(self, reservation_id: str, commit: dict[str, Any], event: dict[str, Any] | None) -> None:
        """Write a commit to the journal before it leaves."""
        self._engine.persist_pending(reservation_id, commit, event)

    def note_event(self, name: str, event: dict[str, Any]) -> None:
        """Write an event to the journal before it leaves; it replaces the commit of this name."""
        record = PendingCommitRecord(
            reservation_id=name, base_url=self._base_url, mode="event", event_fallback_body=event
        )
        self._files.record(record)

    def clear(self, name: str) -> None:
        """Delete a record that has its definite answer."""
        self._files.discard(name)

    def repeat_commit(
        self,
        reservation_id: str,
        commit: dict[str, Any],
        event: dict[str, Any] | None,
        *,
        after_ms: int | None,
    ) -> None:
        """Send a commit repeatedly until it has a definite answer; not before ``after_ms`` has passed."""
        self._engine.schedule(reservation_id, commit, event, retry_after_ms=after_ms)

    def repeat_event(self, name: str, event: dict[str, Any]) -> None:
        """Send an event repeatedly until it has a definite answer."""
        self._engine.schedule_event(name, event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """The last answer to a commit or an event, and its result.

    Attributes:
        response: the answer.
        is_event: whether it answers an event.
        is_kept: whether the answer is not definite yet, and the journal keeps the record until it is.
    """

    response: CyclesResponse
    is_event: bool
    is_kept: bool


class Settler:
    """Settler of known spend on behalf of the tools.

    Args:
        cycles: the authority, as its tenant sees it.
        reservations: what was reserved by this process.
        journal: where spend without an answer is kept; ``None`` if the ledger is in this process.
    """

    def __init__(self, cycles: AsyncCyclesClient, reservations: Reservations, journal: Journal | None) -> None:
        self._cycles = cycles
        self._journal = journal
        self.reservations = reservations

    async def commit(self, reservation_id: str, commit: dict[str, Any]) -> Settlement:
        """Commit, or book as an event if the reservation has expired; a host that gives up does not stop it.

        Raises:
            AuthorityError: it has expired, and is booked under another key already.
        """
        key = str(commit["idempotency_key"])
        rival = self.reservations.settling(reservation_id, key)
        event = self.reservations.event_instead(reservation_id, commit)
        # A rival's record stays in the journal: it may be what was spent.
        journal = None if rival else self._journal
        if journal is not None:
            journal.note_commit(reservation_id, commit, event)
        # If cancelled, it would leave a record that is not repeated until the next start.
        response, is_definite = await _shielded(
            lambda: self._cycles.commit_reservation(reservation_id, commit), is_committed
        )
        if response.status == 410 and rival:
            raise AuthorityError(
                f"Reservation {reservation_id} has expired, and idempotency_key {rival} settles it already: "
                "repeat the call with that key to see how.",
                code="RESERVATION_FINALIZED",
                status=response.status,
            )
        if response.status == 410 and event is not None:
            settlement = await self._book(reservation_id, event)
        else:
            settlement = Settlement(response=response, is_event=False, is_kept=journal is not None and not is_definite)
            if journal is not None and is_definite:
                journal.clear(reservation_id)
            elif journal is not None and response.status not in _UNAUTHORIZED:
                after_ms = response.retry_after_ms_header
                journal.repeat_commit(reservation_id, commit, event, after_ms=after_ms)
        if settlement.response.is_client_error and not settlement.is_kept:
            self.reservations.unsettled(reservation_id, key)
        elif is_committed(settlement.response):
            self.reservations.forget(reservation_id)
        return settlement

    async def book(self, event: dict[str, Any]) -> Settlement:
        """Book spend that had no reservation; a host that gives up does not stop it."""
        return await self._book(f"event-{event['idempotency_key']}", event)

    async def _book(self, name: str, event: dict[str, Any]) -> Settlement:
        if self._journal is not None:
            self._journal.note_event(name, event)
        response, is_definite = await _shielded(lambda: self._cycles.create_event(event), is_booked)
        if self._journal is not None:
            if is_definite:
                self._journal.clear(name)
            elif response.status not in _UNAUTHORIZED:
                self._journal.repeat_event(name, event)
        return Settlement(response=response, is_event=True, is_kept=self._journal is not None and not is_definite)


_UNAUTHORIZED = frozenset({401, 403})

_Check = Callable[[CyclesResponse], bool]


async def _shielded(ask: Callable[[], Awaitable[CyclesResponse]], is_success: _Check) -> tuple[CyclesResponse, bool]:
    """Ask, shielded from cancellation, and once more if no answer came: the same key finds a lost result.

    Returns:
        The answer, without a body that cannot be read; and whether it is definite.
    """
    with anyio.CancelScope(shield=True):
        response = await ask()
        is_lost = response.is_transport_error or response.is_server_error or response.is_success
        if is_lost and not is_success(response):
            response = await ask()
    if response.is_success and not is_success(response):
        response = CyclesResponse(status=response.status, headers=response.headers)
    return response, _is_definite(response, is_success)


class _Amount(BaseModel, strict=True):
    unit: str
    amount: int


class _Balance(BaseModel, strict=True):
    remaining: _Amount


class _Committed(BaseModel, strict=True):
    status: Literal["COMMITTED"]
    charged: _Amount
    released: _Amount | None = None
    balances: list[_Balance] | None = None


class _Booked(BaseModel, strict=True):
    status: Literal["APPLIED"]
    event_id: str
    charged: _Amount | None = None
    balances: list[_Balance] | None = None


def is_committed(response: CyclesResponse) -> bool:
    """Return whether this is the success of a commit, and not something that a proxy made of it."""
    return response.status == 200 and _is_a(_Committed, response)


def is_booked(response: CyclesResponse) -> bool:
    """Return whether this is the success of an event, and not something that a proxy made of it."""
    return response.status == 201 and _is_a(_Booked, response)


def _is_a(model: type[BaseModel], response: CyclesResponse) -> bool:
    # Not by the client library's models: they refuse fields that current authorities send.
    try:
        model.model_validate(response.body)
    except ValidationError:
        return False
    return True


def _is_definite(response: CyclesResponse, is_success: _Check) -> bool:
    """Return whether asking again would change nothing: only then may the record of the spend be deleted."""
    if is_success(response):
        return True
    if not response.is_client_error or response.status in (*_UNAUTHORIZED, 429):
        return False
    said = response.get_body_attribute("error")
    code = ErrorCode.from_string(said) if isinstance(said, str) else None
    is_known = code is not None and code is not ErrorCode.UNKNOWN and not code.is_retryable
    return is_known or said in DENIALS or response.status == 410
