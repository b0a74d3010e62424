"""Records every write, truncation and flush of a ledger's files while it works. Run by ``test_power_loss.py``.

The files are real; SQLite reaches them through a VFS that also keeps a log of what it does, in order, and between its
entries what was acknowledged. The ledger has its files to itself then: SQLite's shared memory is not for such a VFS.
The log is pickled for the process that makes images of it.
"""

import pickle
import random
import sys
from pathlib import Path
from typing import Any

import apsw

from budget_server.authority.budgets import allocate
from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.database import file as storage_file
from budget_server.database.fair_lock import FairFileLock
from budget_server.database.flushing import flush
from campaigns.crash_worker import TENANT, UNIT, Asked
from contract.harness import LEAF, NOON_MS, ROOT

OPERATIONS = 150
CHECKPOINT_PAGES = 60
"""So that the log begins anew some times, as it does after a thousand pages otherwise."""

BASE = apsw.vfs_names()[0]
"""The system's own VFS."""

LOG: list[tuple[Any, ...]] = []


class RecordedFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, base: str, name: "str | apsw.URIFilename | None", flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._name = Path(str(name.filename() if isinstance(name, apsw.URIFilename) else name)).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write."""
        super().xWrite(data, offset)
        LOG.append(("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut off."""
        super().xTruncate(newsize)
        LOG.append(("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Flush."""
        super().xSync(flags)
        LOG.append(("flush", self._name))


class RecordedVfs(apsw.VFS):
    """The system's own, with files that are recorded."""

    def __init__(self) -> None:
        super().__init__("recorded", BASE, makedefault=True)

    def xOpen(self, name: "str | apsw.URIFilename | None", flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file."""
        return RecordedFile(BASE, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        super().xDelete(filename, syncdir)
        LOG.append(("delete", Path(filename).name))


def main(path: Path, seed: int, synchronous: int, log: Path) -> None:
    """Work for a while."""
    vfs = RecordedVfs()
    apsw.connection_hooks.append(lambda db: db.pragma("locking_mode", "exclusive"))
    storage_file._PRAGMAS["synchronous"] = synchronous  # so that a weaker setting can be seen to lose
    note = FairFileLock.note_high_water

    def recorded_note(self: FairFileLock, reached: tuple[int, int]) -> None:
        note(self, reached)
        LOG.append(("note", path.with_name(f"{path.name}.lock").read_bytes()))

    def recorded_flush(path: Path) -> None:
        flush(path)
        LOG.append(("flush names",))

    FairFileLock.note_high_water = recorded_note  # type: ignore[method-assign]
    storage_file.flush = recorded_flush  # type: ignore[attr-defined,unused-ignore]
    now_ms = NOON_MS
    store = LedgerStore(path, clock=lambda: now_ms)

    def set_up(ledger: Ledger) -> None:
        ledger.db.wal_autocheckpoint(CHECKPOINT_PAGES)
        for scope in (ROOT, LEAF):
            allocate(ledger.db, scope=scope, tenant=TENANT, unit=UNIT, amount=10**6)

    store.run(set_up)
    LOG.append(("set up",))
    rng, held = random.Random(seed), list[tuple[str, int]]()  # noqa: S311 - no secret
    for number in range(OPERATIONS):
        now_ms += 1
        operation = rng.choice(("reserve", "commit", "release", "event")) if held else "reserve"
        amount, reservation_id = rng.randint(1, 9), ""
        if operation in ("commit", "release"):
            reservation_id, estimate = held.pop(rng.randrange(len(held)))
            amount = rng.randint(0, estimate)
        answered = Asked(operation, f"{number}", amount, reservation_id).send(store).body
        if operation == "reserve":
            reservation_id = answered["reservation_id"]
            held.append((reservation_id, amount))
        state = {"reserve": "ACTIVE", "commit": "COMMITTED", "release": "RELEASED", "event": ""}[operation]
        LOG.append(("ack", number, reservation_id, state, amount if operation in ("commit", "event") else 0))
    log.write_bytes(pickle.dumps(LOG))
    sys.stdout.write(vfs.__class__.__name__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
