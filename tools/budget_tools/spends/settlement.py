"""Settling known spend so that it survives whatever becomes of this process, of the way, or of the answer.

    what the authority says to a commit, or to an event     what is done
    success, exactly as the protocol has it                 settled; struck out of the journal
    expired                                                 booked as an event, under the same key
    another refusal that the protocol knows                 said to the caller; struck out
    nothing, 5xx, or a success that is none                 the same key again, at once; then in the background
    slow down                                               the same key again, once it may be
    wrong credentials                                       kept for the next start; a person has to mend them

The journal is the client library's own, a file for each reservation, written before the first request leaves: the next
start repeats what is still in it. A ledger in this process needs none: a commit is one transaction of it, and there is
neither a way on which its answer could be lost, nor a file that is safer than the ledger's.
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
"""How many reservations that are not settled a process remembers; of those before, none is booked late."""


@dataclass(kw_only=True, slots=True)
class Reserved:
    """What a reservation was for, which an event has to say anew.

    Attributes:
        subject: who spends.
        action: on what.
        key: under which it is settled, or is being. Of an expired one the authority would book any number of events.
    """

    subject: Mapping[str, Any]
    action: Mapping[str, Any]
    key: str = ""


class Reservations:
    """What the reservations of this process were for; once one has expired, the authority does not say it any more."""

    def __init__(self) -> None:
        self._reserved: OrderedDict[str, Reserved] = OrderedDict()

    def remember(self, reservation_id: str, *, subject: Mapping[str, Any], action: Mapping[str, Any]) -> None:
        """Keep what a new reservation is for."""
        self._reserved[reservation_id] = Reserved(subject=subject, action=action)
        if len(self._reserved) > MOST_REMEMBERED:
            self._reserved.popitem(last=False)

    def action_of(self, reservation_id: str) -> Mapping[str, Any] | None:
        """Return on what a reservation of this process is to be spent; ``None`` if it is not known here."""
        reserved = self._reserved.get(reservation_id)
        return None if reserved is None else reserved.action

    def forget(self, reservation_id: str) -> None:
        """Forget a reservation that the authority has settled, and so will not settle again."""
        self._reserved.pop(reservation_id, None)

    def settling(self, reservation_id: str, key: str) -> str:
        """Note that a reservation is being settled under a key; gives the key under which it is already, if another."""
        reserved = self._reserved.get(reservation_id)
        if reserved is None:
            return ""
        reserved.key = reserved.key or key
        return "" if reserved.key == key else reserved.key

    def unsettled(self, reservation_id: str, key: str) -> None:
        """Note that nothing has come of settling it under this key."""
        reserved = self._reserved.get(reservation_id)
        if reserved is not None and reserved.key == key:
            reserved.key = ""

    def event_instead(self, reservation_id: str, commit: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give the event that books a commit whose reservation has expired; ``None`` where it is not known for what."""
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
    """The client library's commit journal, and what repeats its records.

    Made within a running event loop, it begins to repeat what earlier processes left in it.

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
        """Write down a commit before it leaves."""
        self._engine.persist_pending(reservation_id, commit, event)

    def note_event(self, name: str, event: dict[str, Any]) -> None:
        """Write down an event before it leaves; it takes the place of the commit of this name."""
        record = PendingCommitRecord(
            reservation_id=name, base_url=self._base_url, mode="event", event_fallback_body=event
        )
        self._files.record(record)

    def clear(self, name: str) -> None:
        """Strike out what has its definite answer."""
        self._files.discard(name)

    def repeat_commit(
        self,
        reservation_id: str,
        commit: dict[str, Any],
        event: dict[str, Any] | None,
        *,
        after_ms: int | None,
    ) -> None:
        """Send a commit again and again, until it has a definite answer; not before so long has passed."""
        self._engine.schedule(reservation_id, commit, event, retry_after_ms=after_ms)

    def repeat_event(self, name: str, event: dict[str, Any]) -> None:
        """Send an event again and again, until it has a definite answer."""
        self._engine.schedule_event(name, event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """The last answer to a commit or an event, and what became of it.

    Attributes:
        response: the answer.
        is_event: whether it answers an event.
        is_kept: whether it has no definite answer yet, and the journal keeps it until there is one.
    """

    response: CyclesResponse
    is_event: bool
    is_kept: bool


class Settler:
    """Settles known spend on behalf of the tools.

    Args:
        cycles: the authority, as its tenant sees it.
        reservations: what was reserved by this process.
        journal: where spend is kept that has no answer; ``None`` where the ledger is in this process.
    """

    def __init__(self, cycles: AsyncCyclesClient, reservations: Reservations, journal: Journal | None) -> None:
        self._cycles = cycles
        self._journal = journal
        self.reservations = reservations

    async def commit(self, reservation_id: str, commit: dict[str, Any]) -> Settlement:
        """Commit, or book as an event where the reservation has expired; a host that gives up does not stop it.

        Raises:
            AuthorityError: it has expired, and is booked under another key already.
        """
        key = str(commit["idempotency_key"])
        rival = self.reservations.settling(reservation_id, key)
        event = self.reservations.event_instead(reservation_id, commit)
        # What the journal has of a rival stays there: that may be what was spent.
        journal = None if rival else self._journal
        if journal is not None:
            journal.note_commit(reservation_id, commit, event)
        # Cancelled, it would leave a record that nobody repeats until the next start.
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
    """Ask, whoever gives up waiting, and where that gave no answer once more: the same key finds what was lost.

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
    """Say whether this is the success of a commit, and not what somebody in between has made of it."""
    return response.status == 200 and _is_a(_Committed, response)


def is_booked(response: CyclesResponse) -> bool:
    """Say whether this is the success of an event, and not what somebody in between has made of it."""
    return response.status == 201 and _is_a(_Booked, response)


def _is_a(model: type[BaseModel], response: CyclesResponse) -> bool:
    # Not by the client library's models: they refuse fields that current authorities send.
    try:
        model.model_validate(response.body)
    except ValidationError:
        return False
    return True


def _is_definite(response: CyclesResponse, is_success: _Check) -> bool:
    """Say whether saying it again would change nothing: only then may what was spent be forgotten."""
    if is_success(response):
        return True
    if not response.is_client_error or response.status in (*_UNAUTHORIZED, 429):
        return False
    said = response.get_body_attribute("error")
    code = ErrorCode.from_string(said) if isinstance(said, str) else None
    is_known = code is not None and code is not ErrorCode.UNKNOWN and not code.is_retryable
    return is_known or said in DENIALS or response.status == 410
