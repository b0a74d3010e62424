"""A host's configuration file, which belongs to the user: read it whole, keep a copy, replace it in one step.

The file is never half written: the old content keeps its name until the complete new one takes it over.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from budget_tools.core.errors import ConfigurationError

NEW_FILE_MODE = 0o600
"""The mode of a new file: it may come to hold a key."""

_MARK = ".before-budget-"
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, kw_only=True)
class HostFile:
    """A file as it was read.

    ``path`` is the file itself, behind any links; ``content`` is ``None`` if it is absent.
    """

    path: Path
    content: bytes | None
    mode: int = NEW_FILE_MODE

    @classmethod
    def read(cls, path: Path) -> "HostFile":
        """Read a file.

        Raises:
            ConfigurationError: it cannot be read, or is not a regular file.
        """
        try:
            target = path.resolve()
            status = target.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is not a file: name another with --config.")
            return cls(path=target, content=target.read_bytes(), mode=stat.S_IMODE(status.st_mode))
        except FileNotFoundError:
            return cls(path=path.resolve(), content=None)
        except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
            raise ConfigurationError(f"{path} cannot be read: {_reason(exc)}.") from exc

    @property
    def text(self) -> str:
        """The text of the file, without a byte order mark.

        Raises:
            ConfigurationError: it is not UTF-8.
        """
        return _text(self.content or b"", self.path)

    @property
    def is_open_to_others(self) -> bool:
        """Whether others on this machine may read it, as far as modes show."""
        return os.name == "posix" and bool(self.mode & 0o044)

    def copies(self) -> Iterator[str]:
        """Yield the content of the backup copies beside it, newest first."""
        for copy in sorted(self.path.parent.glob(f"{_escaped(self.path.name)}{_MARK}*"), reverse=True):
            with contextlib.suppress(OSError, ConfigurationError):
                yield _text(copy.read_bytes(), copy)

    def replace(self, text: str, *, may_make_directory: bool = False) -> Path | None:
        """Replace the file's content by a text, keeping a copy of the old content beside it.

        Returns:
            The copy; ``None`` if the file did not exist.

        Raises:
            ConfigurationError: it could not be written, or changed since it was read; it is unchanged.
        """
        begins = (self.content or b"").decode("utf-8", "replace").startswith(_BYTE_ORDER_MARK)
        try:
            new = ((_BYTE_ORDER_MARK if begins else "") + text).encode()
        except UnicodeEncodeError as exc:
            raise ConfigurationError("What is to be written is not text: an argument or a path is not UTF-8.") from exc
        try:
            if may_make_directory:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy = self._copy()
            with _written_beside(self.path, new, self.mode) as written:
                if HostFile.read(self.path).content != self.content:
                    raise ConfigurationError(f"{self.path} changed meanwhile, and is left alone: try again.")
                os.replace(written, self.path)  # noqa: PTH105 - as plain as its guarantee
            _flush(self.path.parent)
        except OSError as exc:
            raise ConfigurationError(f"{self.path} could not be written, and is as it was: {_reason(exc)}.") from exc
        return copy

    def _copy(self) -> Path | None:
        if self.content is None:
            return None
        moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        copy = self.path.with_name(f"{self.path.name}{_MARK}{moment}")
        with _written_beside(copy, self.content, self.mode) as written:
            os.replace(written, copy)  # noqa: PTH105
        return copy


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write a file of another name, durable before it is yielded; afterwards it is removed, unless renamed."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    written = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.chmod(mode)
        _keep_owner(written, path)
        yield written
    finally:
        written.unlink(missing_ok=True)


def _keep_owner(written: Path, path: Path) -> None:
    """Preserve a file's owner, also when an administrator writes it."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            status = path.stat()
            os.chown(written, status.st_uid, status.st_gid)


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} is not UTF-8, and is left as it is.") from exc


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else "") or "its links lead in a circle"


def _flush(directory: Path) -> None:
    """Make a new name durable, if the platform can."""
    with contextlib.suppress(OSError):  # Windows cannot open a directory
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
