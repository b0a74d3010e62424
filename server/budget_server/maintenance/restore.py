"""Restoring a backup over a data directory: checked first, applied as one step, and nothing is deleted.

A backup does not know later events. Money that was spent since then is available in its budgets again, and a person
must be told so. Revoked access does not come back: existing access tokens stay unchanged, and keys of the HTTP
interface that were revoked since stay revoked. Reservations expire at their own time; running delegations get owners
that no longer exist, so that the next start settles them as after a crash.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw

from budget_server.auth.schema import ACCESS_KIND
from budget_server.auth.tokens import ACCESS_FILE
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.database import replacement
from budget_server.database.audit import READ_ONLY, damage
from budget_server.database.copying import settle_in_one_file
from budget_server.database.file import wall_ms
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.delegations.workers import OWNERS_DIRECTORY
from budget_server.maintenance.backup import KINDS, copy_file, copy_files, digests, read_manifest
from budget_server.maintenance.consistency import Inspection, inspect
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError

_CHARGED = (
    "SELECT reservation_id, unit, charged FROM reservations WHERE state = 'COMMITTED'"
    " UNION ALL SELECT event_id, unit, charged FROM events"
)
_TO_BE_CHARGED = (
    " UNION ALL SELECT reservation_id, unit, estimate FROM reservations WHERE state = 'ACTIVE' AND on_expiry = 'charge'"
)
"""The amount that will be charged when a reservation's lease runs out."""

_REVOKED = "SELECT revoked_at_ms, key_id FROM api_keys WHERE revoked_at_ms IS NOT NULL"
_REVOKE = "UPDATE api_keys SET revoked_at_ms = ? WHERE key_id = ? AND revoked_at_ms IS NULL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A checked backup, ready in the data directory."""

    directory: Path
    ready: Path
    as_of_ms: int
    """When the backup was made; for a plain copy, when its ledger was last written."""
    inspection: Inspection
    spent_since: Mapping[str, int] | None
    """Charges in the present ledger that the backup lacks, by unit; ``None`` if it cannot be read."""
    keeps_tokens: bool

    def put_back(self) -> Path | None:
        """Replace the present data as one step; return the directory that keeps the old data, if any existed.

        Raises:
            StorageUnavailableError: a server runs on the data directory; nothing was changed.
        """
        names = [LEDGER_FILE, DELEGATIONS_FILE, JOURNAL_DIRECTORY, OWNERS_DIRECTORY]
        kept = self.directory / _free_name(self.directory)
        try:
            replacement.commit(
                self.directory, self.ready, names=names if self.keeps_tokens else [*names, ACCESS_FILE], kept=kept.name
            )
        except OSError as exc:
            raise StorageUnavailableError(f"{self.directory} could not be restored: {exc.strerror}.") from exc
        with suppress(OSError):  # the directory is not empty
            kept.rmdir()
        return kept if kept.exists() else None


@contextmanager
def made_ready(source: Path, directory: Path) -> Iterator[Ready]:
    """Copy a backup, or a plain copy of a data directory, into a data directory, and check it there.

    Args:
        source: the backup to restore; only read.
        directory: the data directory; created if it is absent.

    Raises:
        ConfigurationError: the source is not a backup, or is incomplete, not sound or of a later version.
        StorageUnavailableError: it could not be copied, or a server runs on the data directory. In either case nothing
            was changed.
    """
    present = [name for name in KINDS if (source / name).exists()]
    if not {LEDGER_FILE, DELEGATIONS_FILE} & set(present):
        raise ConfigurationError(f"{source} is no backup: name a directory that `cycles-budget-mcp backup` made.")
    manifest = read_manifest(source)
    with ExitStack() as undo:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if replacement.is_pending(directory):
                replacement.complete(directory)
            replacement.require_unused(directory, list(KINDS))
            ready = Path(tempfile.mkdtemp(prefix="restore-", dir=directory))
            undo.callback(shutil.rmtree, ready, ignore_errors=True)
            for name in present:
                for each in (name, f"{name}-wal"):
                    if (source / each).exists():
                        copy_file(source / each, ready / each)
            copy_files(source, ready, JOURNAL_DIRECTORY)
            if manifest is not None and digests(ready) != manifest.sha256:
                raise ConfigurationError(
                    f"{source} is not what was backed up ({_first_difference(ready, manifest.sha256)}): take another."
                )
            as_of_ms = _bring_up_to_date(ready, present, source)
            inspection = inspect(ready, None)
            if inspection.findings:
                raise ConfigurationError(f"{source} is not sound, and was not restored: {inspection.findings[0]}")
            keeps_tokens = _is_sound_token_file(directory / ACCESS_FILE)
            spent_since = _carry_over(directory / LEDGER_FILE, ready / LEDGER_FILE)
            _leave_behind(ready)
        except OSError as exc:
            raise StorageUnavailableError(f"{source} could not be copied to {directory}: {exc.strerror}.") from exc
        yield Ready(
            directory=directory,
            ready=ready,
            as_of_ms=as_of_ms if manifest is None else manifest.made_at_ms,
            inspection=inspection,
            spent_since=spent_since,
            keeps_tokens=keeps_tokens,
        )


def _first_difference(ready: Path, sha256: Mapping[str, str]) -> str:
    found = digests(ready)
    name = next(name for name in sorted({*found, *sha256}) if found.get(name) != sha256.get(name))
    return f"{name} was {'added' if name not in sha256 else 'changed' if name in found else 'taken away'}"


def _bring_up_to_date(ready: Path, names: list[str], source: Path) -> int:
    """Fold logs into the copies and migrate them; return when the ledger was last written.

    Raises:
        ConfigurationError: a file is not of the kind of its name, is of a later version, or cannot be read.
    """
    as_of_ms = 0
    for name in names:
        try:
            db = apsw.Connection(str(ready / name), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                KINDS[name].check_ours(db, str(source / name))
                with db:
                    KINDS[name].migrate(db)
                if name == LEDGER_FILE:
                    as_of_ms = int(str(db.execute("SELECT now_ms FROM clock").get))
                settle_in_one_file(db)
            finally:
                db.close()
        except apsw.Error as exc:
            raise ConfigurationError(f"{source / name} cannot be read ({exc}): take another backup.") from exc
        (ready / f"{name}-wal").unlink(missing_ok=True)
    return as_of_ms


def _is_sound_token_file(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        db = apsw.Connection(str(path), flags=READ_ONLY)
        try:
            return not any(damage(db, ACCESS_KIND))
        finally:
            db.close()
    except apsw.Error:
        return False


def _carry_over(present: Path, ready: Path) -> Mapping[str, int] | None:
    """Return the charges since the backup, by unit, and revoke the keys in it that were revoked since.

    Returns:
        ``None`` if the present ledger or the restored one cannot be compared.
    """
    if not present.exists() or not ready.exists():
        return None
    try:
        db = apsw.Connection(str(present), flags=READ_ONLY)
        try:
            db.execute("BEGIN")
            revoked = db.execute(_REVOKED).fetchall()
            now = {str(name): (str(unit), int(str(amount))) for name, unit, amount in db.execute(_CHARGED)}
        finally:
            db.close()
    except apsw.Error:
        return None
    copy = apsw.Connection(str(ready), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        then = {str(name): int(str(amount)) for name, _, amount in copy.execute(_CHARGED + _TO_BE_CHARGED)}
        with copy:
            copy.executemany(_REVOKE, revoked)
    finally:
        copy.close()
    since: dict[str, int] = {}
    for name, (unit, amount) in now.items():
        since[unit] = since.get(unit, 0) + amount - then.get(name, 0)
    return {unit: amount for unit, amount in since.items() if amount > 0}


def _leave_behind(ready: Path) -> None:
    """Assign running delegations to dead owners, so that the next start finds them."""
    (ready / OWNERS_DIRECTORY).mkdir(mode=0o700)
    if not (ready / DELEGATIONS_FILE).exists():
        return
    db = apsw.Connection(str(ready / DELEGATIONS_FILE), flags=READ_ONLY)
    try:
        found = db.execute("SELECT DISTINCT owner FROM delegations WHERE owner IS NOT NULL").fetchall()
    finally:
        db.close()
    for (owner,) in found:
        (ready / OWNERS_DIRECTORY / str(owner)).touch(mode=0o600)


def _free_name(directory: Path) -> str:
    base = f"before-restore-{datetime.fromtimestamp(wall_ms() // 1_000, UTC):%Y%m%d-%H%M%S}"
    names = [base, *(f"{base}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (directory / name).exists())
