"""Checks of an auditor on every kind of file before it reads the contents: is the file readable and complete?"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from budget_server.database.fair_lock import noted_high_water
from budget_server.database.schema import FileKind

READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW

BUSY_MS = 5_000
"""Longest wait for a server that is just recovering or checkpointing the file."""

MAX_FINDINGS = 100
"""Most findings that are reported; a broken file can have one for every row."""


CHECK_FAILED = "SQLite: CHECK constraint failed"
"""Prefix of the finding about a row that can be read but violates a CHECK."""


@contextmanager
def one_moment(path: Path) -> Iterator[apsw.Connection]:
    """Open a file to read one consistent snapshot of it, leaving it and its log unchanged.

    The connection is not read-only: on read-only connections SQLite's integrity check skips the tables' CHECKs.
    """
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.set_busy_timeout(BUSY_MS)
        db.pragma("query_only", 1)
        db.execute("BEGIN")
        yield db
    finally:
        db.close()


def damage(db: apsw.Connection, kind: FileKind) -> Iterator[str]:
    """Report damage to the file itself; its contents are then not worth reading."""
    if db.pragma("application_id") != kind.application_id:
        yield f"It is not a {kind.noun}: its header carries another program's mark."
        return
    version, known = db.pragma("user_version"), len(kind.migrations)
    if version != known:
        what = "open it once with this version, which brings it up to date" if version < known else "upgrade"
        yield f"Its tables are of schema {version}, and this version knows schema {known}: {what}."
        return
    for (problem,) in db.execute(f"PRAGMA integrity_check({MAX_FINDINGS})"):
        if problem != "ok":
            yield f"SQLite: {problem}"
    for table, rowid, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield f"Row {rowid} of {table} belongs to nothing in {parent}."
    if _schema(db) != _schema_as_migrated(kind):
        yield "Its tables are not those that this version's migrations make."
        return
    if kind.is_behind(db, noted_high_water(Path(db.filename))):
        yield "Its last writes are lost: its log (-wal) was damaged or deleted, or it is an older copy."


def _schema(db: apsw.Connection) -> set[tuple[str, str]]:
    found = db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return {(str(name), " ".join(str(sql).split())) for name, sql in found}


def _schema_as_migrated(kind: FileKind) -> set[tuple[str, str]]:
    model = apsw.Connection(":memory:")
    try:
        kind.migrate(model)
        return _schema(model)
    finally:
        model.close()
