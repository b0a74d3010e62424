"""A backup: a directory with everything that matters of a data directory as of one moment, proven to be sound.

The ledger and the delegations are copied as of the same moment. If the delegations were newer, they would contain turns
whose charge the ledger lacks, and that money would appear again. The journal of unanswered commits is copied at the
same moment too: while nothing can be written, a commit is in the ledger, or in the journal, or in neither and then was
never sent. The owners of delegations are not copied: none of them runs its delegation after a restore.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from budget_server.auth.schema import ACCESS_KIND
from budget_server.auth.tokens import ACCESS_FILE
from budget_server.authority.schema import LEDGER_KIND
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.database.copying import copy_together
from budget_server.database.file import wall_ms
from budget_server.database.flushing import flush, flush_tree
from budget_server.database.schema import FileKind
from budget_server.delegations.schema import DELEGATIONS_KIND
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.maintenance.consistency import Inspection, inspect
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError

KINDS: Mapping[str, FileKind] = {
    ACCESS_FILE: ACCESS_KIND,
    DELEGATIONS_FILE: DELEGATIONS_KIND,
    LEDGER_FILE: LEDGER_KIND,
}
"""The databases of a data directory."""

MANIFEST = "backup.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The description of a backup, stored in it."""

    made_at_ms: int
    sha256: Mapping[str, str]
    """The hash of each of its files, by its path within the backup."""


def make_backup(directory: Path, destination: Path) -> Inspection:
    """Copy a data directory while servers may run on it, and prove that the copy is sound before it gets its name.

    Args:
        directory: the data directory.
        destination: the backup, a directory that must not exist yet.

    Returns:
        The inspection of the copy.

    Raises:
        ConfigurationError: the destination exists, or there is nothing to copy, or the data is not sound.
        StorageUnavailableError: something could not be read or written. In either case no backup is left.
    """
    kinds = [(name, kind) for name, kind in KINDS.items() if (directory / name).exists()]
    if not kinds:
        raise ConfigurationError(f"There is nothing to back up in {directory}: set BUDGET_DATA_DIR.")
    destination = destination.absolute()
    _refuse_taken(destination)
    try:
        with ExitStack() as undo:
            made = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
            undo.callback(shutil.rmtree, made, ignore_errors=True)
            made_at_ms = wall_ms()
            copy_together(kinds, directory, made, lambda: copy_files(directory, made, JOURNAL_DIRECTORY))
            inspection = inspect(made, None)
            if inspection.findings:
                raise ConfigurationError(
                    f"No backup was made, because {directory} is not sound: {inspection.findings[0]} "
                    "`cycles-budget-mcp check` tells all."
                )
            _write_manifest(made, made_at_ms)
            flush_tree(made)
            _refuse_taken(destination)
            made.rename(destination)
            undo.pop_all()
        flush(destination.parent)
    except OSError as exc:
        raise StorageUnavailableError(f"No backup could be made at {destination}: {exc.strerror}.") from exc
    return inspection


def _refuse_taken(destination: Path) -> None:
    if destination.exists() or destination.is_symlink():
        raise ConfigurationError(f"{destination} exists already: name a backup that does not.")


def copy_files(source: Path, copy: Path, name: str) -> None:
    """Copy the files below one directory of a data directory, for their owner alone; files that vanish are skipped."""
    for path in sorted((source / name).rglob("*")):
        if path.is_file() and not path.is_symlink():
            to = copy / path.relative_to(source)
            for parent in reversed(to.relative_to(copy).parents[:-1]):
                (copy / parent).mkdir(mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):  # a commit that was answered meanwhile
                copy_file(path, to)


def copy_file(source: Path, copy: Path) -> None:
    """Copy one file, for its owner alone."""
    with source.open("rb") as reading:
        copy.touch(mode=0o600, exist_ok=False)
        with copy.open("wb") as writing:
            shutil.copyfileobj(reading, writing)


def _write_manifest(backup: Path, made_at_ms: int) -> None:
    manifest = {
        "program": f"cycles-budget-mcp {version('cycles-budget-mcp')}",
        "made_at_ms": made_at_ms,
        "sha256": digests(backup),
    }
    path = backup / MANIFEST
    path.touch(mode=0o600)
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(backup: Path) -> Manifest | None:
    """Read the description of a backup; ``None`` for a plain copy of a data directory, which has none.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        found = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(
            made_at_ms=int(found["made_at_ms"]),
            sha256={str(name): str(digest) for name, digest in found["sha256"].items()},
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigurationError(f"{backup / MANIFEST} cannot be read: take another backup.") from exc


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory, by its path within it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as reading:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(reading, "sha256").hexdigest()
    return found
