"""A ledger with a past: many reservations that were settled, and a few that are still held.

The past is bulk-written, but every row of it is a copy of one that the ledger itself wrote for a reservation that was
committed or released: under an id of its own time, with keys at random, and with the stored answers of both calls.
Those answers are kept without their balances, which nothing here reads, so that a million reservations stay near 1 GB;
whole, they would take twice that.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
from benchmarks.embedded import body_of, intent, new_key, open_client, outlay, provision
from benchmarks.rows import Row, Value, find_row, insertion
from runcycles import AsyncCyclesClient

ACTIVE_COUNT = 20
"""How many reservations are still held: fewer than a page, so that a list of them has to know where they end."""

PAST_MS = 30 * 86_400_000
"""Over how long the past is spread."""

_CACHE_KIB = 262_144


async def grow(path: Path, settled: int) -> str:
    """Make a ledger with this many settled reservations.

    Returns:
        A cursor to the middle of its list in the default order, which is newest first: it ends the first page of the
        older half, to which the newer half was added afterwards.
    """
    provision(path)
    async with open_client(path) as client:
        ids = [await _settle_one(client, is_committed=number > 0) for number in range(3)]
    now_ms = time.time_ns() // 1_000_000
    moments_ms = [now_ms - PAST_MS + PAST_MS * number // settled for number in range(settled)]
    _write_past(path, ids, moments_ms[: settled // 2])
    async with open_client(path) as client:
        cursor = str(body_of(await client.list_reservations())["next_cursor"])
    _write_past(path, ids, moments_ms[settled // 2 :])
    async with open_client(path) as client:
        for _ in range(ACTIVE_COUNT):
            body_of(await client.create_reservation(intent(new_key())))
    return cursor


async def _settle_one(client: AsyncCyclesClient, *, is_committed: bool) -> str:
    reservation_id = str(body_of(await client.create_reservation(intent(new_key(), amount=2)))["reservation_id"])
    if is_committed:
        body_of(await client.commit_reservation(reservation_id, outlay(new_key(), 1)))
    else:
        body_of(await client.release_reservation(reservation_id, {"idempotency_key": new_key()}))
    return reservation_id


class _Pattern:
    """What the ledger wrote for one settled reservation, to be copied."""

    def __init__(self, db: apsw.Connection, reservation_id: str) -> None:
        self._id = reservation_id
        reservation = find_row(db, "reservations", reservation_id=reservation_id)
        key = reservation["idempotency_key"]
        reserved = find_row(db, "idempotency", resource="", idempotency_key=key)
        settled = find_row(db, "idempotency", resource=reservation_id)
        self._rows = [reservation, _without_balances(reserved), _without_balances(settled)]
        self._made_at_ms = _whole(reservation["created_at_ms"])
        self._insertions = [
            insertion(table, row)
            for table, row in zip(("reservations", "idempotency", "idempotency"), self._rows, strict=True)
        ]
        self.charged = _whole(reservation["charged"] or 0)

    def copies(self, moment_ms: int) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """Give the statements, with their values, that write the same as though it had been at another moment."""
        new_id, reserve_key, settle_key = _id_at(moment_ms), new_key(), new_key()
        later_ms = moment_ms - self._made_at_ms
        for statement, row, key in zip(
            self._insertions, self._rows, (reserve_key, reserve_key, settle_key), strict=True
        ):
            copy = {**row, "idempotency_key": key}
            for name, value in row.items():
                if isinstance(value, int) and name.endswith("_at_ms"):
                    copy[name] = value + later_ms
                elif isinstance(value, str) and self._id in value:
                    copy[name] = value.replace(self._id, new_id)
            yield statement, tuple(copy.values())


def _write_past(path: Path, pattern_ids: Sequence[str], moments_ms: Sequence[int]) -> None:
    """Copy the patterns, in turns, to these moments; nobody else has the file open."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    # Nothing has to survive a crash here; the ledger sets its own pragmas when it opens the file.
    for pragma, value in (("journal_mode", "off"), ("synchronous", 0), ("cache_size", -_CACHE_KIB)):
        db.pragma(pragma, value)
    patterns = [_Pattern(db, reservation_id) for reservation_id in pattern_ids]
    with db:
        charged = 0
        for number, moment_ms in enumerate(moments_ms):
            pattern = patterns[number % len(patterns)]
            for statement, values in pattern.copies(moment_ms):
                db.execute(statement, values)
            charged += pattern.charged
        db.execute("UPDATE budgets SET spent = spent + ?1, remaining = remaining - ?1", (charged,))
    db.close()


def _without_balances(answer: Row) -> Row:
    body = json.loads(str(answer["body"]))
    body.pop("balances", None)
    return {**answer, "body": json.dumps(body, separators=(",", ":"))}


def _whole(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number.")
    return value


def _id_at(moment_ms: int) -> str:
    """Make an id as the ledger would have made it at that moment: a UUID of version 7."""
    text = f"{moment_ms:012x}7{os.urandom(2).hex()[1:]}a{os.urandom(8).hex()[1:]}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
