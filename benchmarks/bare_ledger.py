"""What the ledger is measured against: one bare transaction that reserves, and nothing around it.

It runs on a ledger file of its own, with the same tables, indexes and pragmas, and writes the bytes that the ledger
would write: copies of rows that the ledger wrote there once, under new ids and keys. What it lacks is all the rest: it
checks no request, sweeps no expired lease, keeps no clock, gives no answer and takes no turns with other processes.
"""

from pathlib import Path

import apsw
from benchmarks.embedded import AMPLE, LEAF, ROOT, TENANT, UNIT, body_of, intent, open_client, provision
from benchmarks.rows import find_row, insertion

from budget_server.authority.store import LedgerStore

PATIENCE_MS = 60_000
"""How long SQLite's own waiting may take where several processes write."""

_PATTERN_KEY = "pattern"
_PRAGMAS = (
    "synchronous",
    "fullfsync",
    "checkpoint_fullfsync",
    "wal_autocheckpoint",
    "cache_size",
    "mmap_size",
    "foreign_keys",
    "trusted_schema",
    "cell_size_check",
)
_FIND_ANSWER = (
    "SELECT payload_sha256, status, body FROM idempotency"
    " WHERE tenant = ? AND endpoint = ? AND resource = '' AND idempotency_key = ?"
)
_FIND_BUDGET = "SELECT remaining, reserved FROM budgets WHERE scope = ? AND unit = ?"
_SAVE_BUDGET = "UPDATE budgets SET remaining = ?, reserved = ? WHERE scope = ? AND unit = ?"


async def make_bare_ledger(path: Path, *, root_amount: int = AMPLE) -> None:
    """Make the file of a ``BareLedger``."""
    provision(path, root_amount=root_amount)
    async with open_client(path) as client:
        # Of nothing, so that the budgets are still whole.
        body_of(await client.create_reservation(intent(_PATTERN_KEY, amount=0)))


class BareLedger:
    """An open connection to such a file."""

    def __init__(self, path: Path) -> None:
        store = LedgerStore(path)
        pragmas = store.run(lambda ledger: {name: ledger.db.pragma(name) for name in _PRAGMAS})
        store.close()
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._db.set_busy_timeout(PATIENCE_MS)
        for name, value in pragmas.items():
            self._db.pragma(name, value)
        reservation = {**find_row(self._db, "reservations", idempotency_key=_PATTERN_KEY), "estimate": 1}
        answer = find_row(self._db, "idempotency", idempotency_key=_PATTERN_KEY)
        self._endpoint = answer["endpoint"]
        self._insert_reservation, self._insert_answer = (
            insertion("reservations", reservation),
            insertion("idempotency", answer),
        )
        self._reservation, self._answer = list(reservation.values()), list(answer.values())
        self._place_of_id = list(reservation).index("reservation_id")
        self._places_of_key = [list(row).index("idempotency_key") for row in (reservation, answer)]

    def reserve(self, reservation_id: str, key: str) -> bool:
        """Reserve 1 on both budgets, durably, and say whether that much was there."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        if db.execute(_FIND_ANSWER, (TENANT, self._endpoint, key)).fetchone() is not None:
            raise RuntimeError(f"The key {key} was used before, so the transaction's time means nothing.")
        budgets = [(scope, db.execute(_FIND_BUDGET, (scope, UNIT)).get) for scope in (ROOT, LEAF)]
        if any(remaining < 1 for _, (remaining, _) in budgets):
            db.execute("ROLLBACK")
            return False
        for scope, (remaining, reserved) in budgets:
            db.execute(_SAVE_BUDGET, (remaining - 1, reserved + 1, scope, UNIT))
        self._reservation[self._place_of_id] = reservation_id
        self._reservation[self._places_of_key[0]] = self._answer[self._places_of_key[1]] = key
        db.execute(self._insert_reservation, self._reservation)
        db.execute(self._insert_answer, self._answer)
        db.execute("COMMIT")
        return True

    def close(self) -> None:
        """Close the file."""
        self._db.close()
