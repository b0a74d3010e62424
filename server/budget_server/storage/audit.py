"""What an auditor asks of every kind of file before it looks at what is in it: can it be read, and is it all there?"""

from collections.abc import Iterator
from pathlib import Path

import apsw

from budget_server.storage.schema import FileKind
from budget_server.storage.turnstile import noted_high_water

READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW

MAX_FINDINGS = 100
"""Most findings that are told; a broken file can have one for every row."""


def damage(db: apsw.Connection, kind: FileKind) -> Iterator[str]:
    """Say what is wrong with a file as such; what is in it is not worth reading then."""
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
