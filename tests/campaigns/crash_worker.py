"""Processes on one ledger that are killed in the middle of their work, round after round. Run by ``test_crash.py``.

In every round some processes reserve, commit, release, extend and book events on one ledger, each telling this one,
over a pipe, what it asks and what it was answered. Each is killed: by a signal at some moment, or by itself just before
or after one of its commits, or at one step of SQLite's machine, such as in the middle of ending a period; every few
rounds a new day begins. Then a process that opens the ledger afterwards sends again, under the same key, what was asked
and not answered, and holds the ledger against all that was ever answered.

The seed decides what every process does and where it kills itself; which of them comes first, and where a signal finds
it, the kernel decides. The report is one line of JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from budget_server.authority.audit import audit
from budget_server.authority.budgets import allocate, set_period
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import Refusal
from budget_server.authority.replay import Answer
from budget_server.authority.requests import (
    CommitRequest,
    EventRequest,
    ExtendRequest,
    ReleaseRequest,
    ReserveRequest,
    parse,
)
from budget_server.authority.store import LedgerStore
from contract.harness import LEAF, NOON_MS, ROOT
from faults.places import IN_THE_LEDGER, die_at

PROCESSES = 4
OPERATIONS = 12
"""Most that a process does in a round, where it is not killed before."""

DAILY = 150
"""Tokens of a day: less than what is asked for, so that some is denied."""

DAY_MS = 86_400_000
NEW_DAY_EVERY = 5
AUDIT_EVERY = 50
"""Rounds between two proofs of the whole file; what a round did is looked at in each."""

UNIT, TENANT = "TOKENS", "acme"
SPENDER = {"tenant": TENANT, "agent": "bot"}
ACTION = {"kind": "llm.completion", "name": "claude"}

KINDS = ("signal", *IN_THE_LEDGER)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a process."""

    operation: str
    key: str
    amount: int
    reservation_id: str = ""

    def send(self, store: LedgerStore) -> Answer:
        """Send it; the same one again is answered the same."""
        amount = {"unit": UNIT, "amount": self.amount}
        return store.run(lambda ledger: _SEND[self.operation](ledger, self, amount))


def _reserve(ledger: Ledger, asked: Asked, amount: dict[str, Any]) -> Answer:
    body = {"subject": SPENDER, "action": ACTION, "estimate": amount, "ttl_ms": 3_600_000}
    return ledger.reserve(TENANT, parse(ReserveRequest, {"idempotency_key": asked.key, **body}))


def _commit(ledger: Ledger, asked: Asked, amount: dict[str, Any]) -> Answer:
    request = parse(CommitRequest, {"idempotency_key": asked.key, "actual": amount})
    return ledger.commit(TENANT, asked.reservation_id, request)


def _release(ledger: Ledger, asked: Asked, _: dict[str, Any]) -> Answer:
    return ledger.release(TENANT, asked.reservation_id, parse(ReleaseRequest, {"idempotency_key": asked.key}))


def _extend(ledger: Ledger, asked: Asked, _: dict[str, Any]) -> Answer:
    body = {"idempotency_key": asked.key, "extend_by_ms": 1_000}
    return ledger.extend(TENANT, asked.reservation_id, parse(ExtendRequest, body))


def _event(ledger: Ledger, asked: Asked, amount: dict[str, Any]) -> Answer:
    body = {"subject": SPENDER, "action": ACTION, "actual": amount, "overage_policy": "REJECT"}
    return ledger.event(TENANT, parse(EventRequest, {"idempotency_key": asked.key, **body}))


_SEND = {"reserve": _reserve, "commit": _commit, "release": _release, "extend": _extend, "event": _event}


# -- a process that is killed ---------------------------------------------------------------------------------------


def live(path: Path, now_ms: int, name: str, rng: random.Random, pipe: int) -> NoReturn:
    """Work until all is done or this process is killed, saying before and after each request what it is."""
    store = LedgerStore(path, clock=lambda: now_ms)
    held: list[tuple[str, int]] = []
    for number in range(OPERATIONS):
        operation = rng.choice(("reserve", "reserve", "commit", "release", "extend", "event"))
        if operation in ("commit", "release", "extend") and not held:
            operation = "reserve"
        amount, reservation_id = rng.randint(1, 9), ""
        if operation in ("commit", "release", "extend"):
            place = rng.randrange(len(held))
            reservation_id, estimate = held[place] if operation == "extend" else held.pop(place)
            amount = rng.randint(0, estimate)
        asked = Asked(operation, f"{name}-{number}", amount, reservation_id)
        _say(pipe, ["ask", asked.operation, asked.key, asked.amount, asked.reservation_id])
        try:
            body = asked.send(store).body
        except Refusal as refusal:
            _say(pipe, ["denied", refusal.code])
            continue
        if operation == "reserve":
            held.append((body["reservation_id"], amount))
        _say(pipe, ["done", body.get("reservation_id", "")])
    os._exit(0)


def _say(pipe: int, words: list[Any]) -> None:
    os.write(pipe, json.dumps(words).encode() + b"\n")


# -- the process that outlives them ---------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Books:
    """All that was ever answered, and what became of it."""

    spent: int = 0
    states: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Of the round's reservations: their state and what they were charged."""

    found: Counter[str] = field(default_factory=Counter[str])

    def note(self, asked: Asked, reservation_id: str) -> None:
        """Note what was answered with success."""
        match asked.operation:
            case "reserve":
                assert reservation_id not in self.states, "two keys were given one reservation"
                self.states[reservation_id] = ("ACTIVE", 0)
            case "commit":
                self.states[asked.reservation_id] = ("COMMITTED", asked.amount)
                self.spent += asked.amount
            case "release":
                self.states[asked.reservation_id] = ("RELEASED", 0)
            case "event":
                self.spent += asked.amount
        self.found["acknowledged"] += 1


def play_round(path: Path, books: Books, number: int, rng: random.Random, now_ms: int) -> None:
    """Let processes work and be killed; then ask again what was not answered, and compare."""
    is_new_day = number % NEW_DAY_EVERY == 0
    pids: list[tuple[int, int, str, float]] = []
    for process in range(PROCESSES):
        kind = rng.choice(KINDS)
        after = rng.randint(1, 10) if kind.endswith("commit") else int(10 ** rng.uniform(0.5, 4.3))
        delay_seconds, seed = rng.random() * 0.03, rng.randrange(2**32)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            if kind != "signal":
                die_at(kind, after)
            live(path, now_ms, f"{number}-{process}", random.Random(seed), writer)  # noqa: S311 - no secret
        os.close(writer)
        pids.append((pid, reader, kind, delay_seconds))
    unanswered: list[Asked] = []
    for pid, reader, kind, delay_seconds in pids:
        if kind == "signal":
            time.sleep(delay_seconds)  # anywhere in its work
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            books.found[kind] += 1
            books.found["of these as a day begins"] += is_new_day
        elif os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError(f"A process failed by itself: {status}")
        asked: Asked | None = None
        for word, *rest in _lines(reader):
            if word == "ask":
                asked = Asked(*rest)
            elif asked is not None:
                if word == "done":
                    books.note(asked, rest[0])
                else:
                    books.found["denied"] += 1
                asked = None
        if asked is not None:
            unanswered.append(asked)
    _settle(path, books, unanswered, now_ms)


def _lines(reader: int) -> Iterator[list[Any]]:
    with os.fdopen(reader, "rb") as stream:
        for line in stream.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


def _settle(path: Path, books: Books, unanswered: list[Asked], now_ms: int) -> None:
    store = LedgerStore(path, clock=lambda: now_ms)
    for asked in unanswered:
        books.found["asked again"] += 1
        try:
            books.note(asked, asked.send(store).body.get("reservation_id", ""))
        except Refusal:
            books.found["denied"] += 1

    def look(ledger: Ledger) -> tuple[dict[str, tuple[str, int]], list[Any], int]:
        db = ledger.db
        marks = ",".join("?" * len(books.states))
        rows = db.execute(
            f"SELECT reservation_id, state, coalesce(charged, 0) FROM reservations WHERE reservation_id IN ({marks})",  # noqa: S608
            tuple(books.states),
        )
        states: dict[str, tuple[str, int]] = {str(rid): (str(state), int(charged)) for rid, state, charged in rows}
        budgets = list(db.execute("SELECT scope, allocated, spent, reserved, debt FROM budgets ORDER BY scope"))
        ended = db.execute("SELECT coalesce(sum(spent), 0) FROM ended_periods WHERE scope = ?", (ROOT,)).get
        return states, budgets, int(str(ended))

    states, budgets, ended = store.run(look)
    store.close()
    assert states == books.states, f"lost or doubled: {set(states.items()) ^ set(books.states.items())}"
    (_, allocated, spent, reserved, debt), (_, _, leaf_spent, *_) = budgets
    assert ended + spent == leaf_spent == books.spent, f"spent {ended} + {spent} and {leaf_spent}, not {books.spent}"
    assert spent + reserved <= allocated, f"overspent: {spent} and {reserved} of {allocated}"
    assert debt == 0, f"a debt of {debt}"
    books.states.clear()


def main(path: Path, points: int, seed: int) -> None:
    """Play rounds until so many processes were killed."""
    store = LedgerStore(path, clock=lambda: NOON_MS)

    def set_up(ledger: Ledger) -> None:
        allocate(ledger.db, scope=ROOT, tenant=TENANT, unit=UNIT, amount=DAILY)
        allocate(ledger.db, scope=LEAF, tenant=TENANT, unit=UNIT, amount=10**12)
        set_period(ledger.db, scope=ROOT, unit=UNIT, period="day", time_zone="UTC", now_ms=NOON_MS)

    store.run(set_up)
    store.close()
    rng = random.Random(seed)  # noqa: S311 - no secret
    books, rounds, now_ms = Books(), 0, NOON_MS
    while sum(books.found[kind] for kind in KINDS) < points:
        rounds += 1
        if rounds % NEW_DAY_EVERY == 0:
            now_ms += DAY_MS
            books.found["days begun"] += 1
        try:
            play_round(path, books, rounds, rng, now_ms)
            if rounds % AUDIT_EVERY == 0:
                assert audit(path, None).findings == []
        except AssertionError as exc:
            raise SystemExit(f"Round {rounds} of the seed {seed}: {exc}") from exc
    findings = audit(path, None).findings
    if findings:
        raise SystemExit(f"After {rounds} rounds of the seed {seed}: {findings}")
    sys.stdout.write(json.dumps(books.found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
