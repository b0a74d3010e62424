"""Checks of the machine: the installed packages, the program's files, and the time zone of its days."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from budget_server.config.settings import Settings
from budget_server.database.file import OLDEST_SAFE_SQLITE
from budget_server.doctor.finding import Finding, ok, problem, warning
from budget_server.hosts.entry import PROGRAM
from budget_tools.core.errors import ConfigurationError

PACKAGES = ("mcp", "anthropic", "runcycles", "genai-prices", "pydantic")
"""The packages whose versions matter most to faults."""

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"})
_NETWORK_MOUNTS = ("fuse.sshfs", "fuse.rclone", "fuse.glusterfs", "fuse.s3fs")
_ROOT = 0
_SYNCHRONISED = ("dropbox", "onedrive", "google drive", "googledrive", "mobile documents", "nextcloud")


def programs() -> Iterator[Finding]:
    """Report the versions in use."""
    yield ok(f"cycles-budget-mcp {version(PROGRAM)} on Python {platform.python_version()}, {sys.executable}")
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield problem(f"The package {package} is not installed: install cycles-budget-mcp anew.")
    yield ok(f"With {', '.join(found)}")
    sqlite = apsw.sqlite_lib_version()
    if tuple(int(part) for part in sqlite.split(".")) < OLDEST_SAFE_SQLITE:
        yield problem(f"SQLite {sqlite} can lose commits: install apsw 3.51.3 or newer.")
    else:
        yield ok(f"SQLite {sqlite}")


def data_directory(settings: Settings) -> Iterator[Finding]:
    """Check that the data directory can be used, and that it is private and local as far as can be known."""
    directory = settings.budget_data_dir.absolute()
    if not directory.exists():
        above = next(parent for parent in directory.parents if parent.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            yield ok(f"The data directory {directory} is made at the first start")
        else:
            yield problem(f"The data directory {directory} cannot be made: set BUDGET_DATA_DIR to one that can.")
        return
    if not directory.is_dir():
        yield problem(f"{directory} is not a directory: set BUDGET_DATA_DIR to one.")
        return
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        yield problem(
            f"The data directory {directory} cannot be written ({exc.strerror}): set BUDGET_DATA_DIR to one that can."
        )
        return
    yield from _seclusion(directory)


def _seclusion(directory: Path) -> Iterator[Finding]:
    is_well = True
    status = directory.stat()
    # Windows has neither these modes nor owners; its answers here mean nothing.
    if os.name == "posix" and status.st_mode & 0o077:
        is_well = False
        yield warning(f"Others on this machine may look into {directory}: chmod 700 {directory}")
    if os.name == "posix" and status.st_uid not in (os.geteuid(), _ROOT):
        is_well = False
        yield warning(
            f"The data directory {directory} belongs to another user ({status.st_uid}), who may put other files in the "
            "place of yours: set BUDGET_DATA_DIR to a directory of your own."
        )
    if file_system := _network_file_system(directory.resolve()):
        is_well = False
        yield warning(
            f"The data directory {directory} is on a network ({file_system}), where locks may not hold: "
            "set BUDGET_DATA_DIR to a directory on a local disk."
        )
    if service := next((part for part in directory.resolve().parts if part.lower().startswith(_SYNCHRONISED)), ""):
        is_well = False
        yield warning(
            f"The data directory {directory} is kept in step with other machines ({service}), which can tear a ledger: "
            "set BUDGET_DATA_DIR to a directory outside of it."
        )
    if is_well:
        yield ok(f"The data directory {directory} can be written, and by nobody else")


def _network_file_system(directory: Path) -> str:
    """Return the network file system of a directory; empty if it is on none, or if that cannot be known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        kinds[before.split()[4].replace("\\040", " ")] = after.split()[0]
    kind = next((kinds[place] for place in map(str, (directory, *directory.parents)) if place in kinds), "")
    return kind if kind in _NETWORK_FILE_SYSTEMS or kind.startswith(_NETWORK_MOUNTS) else ""


def time_zone(settings: Settings) -> Iterator[Finding]:
    """Report the time zone in which days begin."""
    try:
        name = settings.time_zone
    except ConfigurationError as exc:
        yield (warning if settings.budget_period == "none" else problem)(exc.message)
        return
    source = "BUDGET_TIME_ZONE" if settings.budget_time_zone else "this machine"
    yield ok(f"Days begin at midnight in {name} ({source})")
