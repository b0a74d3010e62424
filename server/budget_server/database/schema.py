"""The kinds of file: their marks, their tables, and the migrations that create them.

Migrations are functions appended to a kind's ``migrations`` and never edited once released; ``PRAGMA user_version``
counts them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from budget_tools.core.errors import ConfigurationError

Migration = Callable[[apsw.Connection], None]

HighWater = tuple[int, int]
"""The high-water mark of a file: two numbers that grow with each write, the first one more significant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """One kind of file."""

    noun: str
    """The name people use for it: "budget ledger"."""
    contents: str
    """The name of its contents: "budgets"."""
    application_id: int
    """Its mark in the SQLite header, so that a foreign database is not mistaken for one."""
    migrations: tuple[Migration, ...]
    high_water: str = ""
    """SQL that returns the high-water mark; ``""`` for a kind that may lose its last writes without harm."""

    def check_ours(self, db: apsw.Connection, path: str) -> None:
        """Check that a file is of this kind and of a known version, before anything is written to it.

        Raises:
            ConfigurationError: the file is another program's database, or was written by a later version.
        """
        version = db.pragma("user_version")
        application_id = db.pragma("application_id")
        is_empty = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
        if application_id != self.application_id and not (is_empty and version == 0):
            raise ConfigurationError(f"{path} is not a {self.noun}: point BUDGET_DATA_DIR at another directory.")
        if version > len(self.migrations):
            raise ConfigurationError(
                f"{path} was written by a later version (schema {version}, this one knows {len(self.migrations)}): "
                "upgrade cycles-budget-mcp."
            )

    def migrate(self, db: apsw.Connection) -> None:
        """Migrate a file to the newest schema; the caller holds the file's lock and an open write transaction."""
        version = db.pragma("user_version")
        for number, migration in enumerate(self.migrations[version:], start=version + 1):
            migration(db)
            db.pragma("user_version", number)
        db.pragma("application_id", self.application_id)

    def reached(self, db: apsw.Connection) -> HighWater | None:
        """Return the high-water mark of a file, within its open transaction."""
        if not self.high_water:
            return None
        major, minor = db.execute(self.high_water).fetchone() or (0, 0)
        return int(str(major)), int(str(minor))

    def is_behind(self, db: apsw.Connection, high_water: HighWater | None) -> bool:
        """Return whether a file is behind an earlier high-water mark."""
        reached = self.reached(db)
        return reached is not None and high_water is not None and reached < high_water
