"""Files that are replaced beneath an open connection: noticed, though it is their directory that is looked at."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from budget_server.database.file_identity import SETTLING_SECONDS, TRUSTED_SECONDS, FileIdentity

NAMES = ("ledger", "ledger-wal")


class Clock:
    """Seconds that a test counts."""

    now = 0.0

    def __call__(self) -> float:
        """Say how many there have been."""
        return self.now


def wait_for_another_time(directory: Path) -> None:
    """Wait until the file system's clock, coarse as it may be, has moved on since a directory was changed."""
    probe = directory.with_name("probe")
    probe.touch()
    while probe.stat().st_mtime_ns <= directory.stat().st_ctime_ns:
        probe.touch()


def delete(directory: Path) -> None:
    """Delete the log."""
    (directory / "ledger-wal").unlink()


def replace(directory: Path) -> None:
    """Put another log in its place."""
    (directory / "other").touch()
    (directory / "other").replace(directory / "ledger-wal")


def restore(directory: Path) -> None:
    """Copy an older directory over it, with all times as they were."""
    was = directory.stat()
    (directory / "ledger").unlink()
    (directory / "ledger").touch()
    os.utime(directory, ns=(was.st_atime_ns, was.st_mtime_ns))


def exchange(directory: Path) -> None:
    """Put another directory in its place."""
    directory.rename(directory.with_name("old"))
    shutil.copytree(directory.with_name("old"), directory)


def take_away(directory: Path) -> None:
    """Leave nothing at its path."""
    directory.rename(directory.with_name("away"))


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file and its log, both open: what is deleted leaves its number to no other file."""
    directory = tmp_path / "data"
    directory.mkdir()
    with ExitStack() as opened:
        for name in NAMES:
            opened.enter_context((directory / name).open("wb"))
        yield directory


@pytest.mark.parametrize("is_settled", [True, False], ids=["long after", "at once"])
@pytest.mark.parametrize("befall", [delete, replace, restore, exchange, take_away])
def test_another_file_in_their_place_is_noticed(data: Path, befall: Callable[[Path], None], is_settled: bool) -> None:
    """And it stays so, however often it is asked."""
    clock = Clock()
    placement = FileIdentity([data / name for name in NAMES], clock=clock)
    assert placement.is_kept()
    if is_settled:
        clock.now += SETTLING_SECONDS + 1
        assert placement.is_kept()
        wait_for_another_time(data)

    befall(data)

    assert not placement.is_kept()
    clock.now += SETTLING_SECONDS + 1
    assert not placement.is_kept()
    assert not placement.is_kept()


def test_a_change_at_the_same_time_as_the_one_before_is_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse clocks give two changes of a directory one time, so a new one is not trusted yet."""
    monkeypatch.setattr("budget_server.database.file_identity._stamp", lambda _: (1,))
    clock = Clock()
    placement = FileIdentity([data / name for name in NAMES], clock=clock)
    assert placement.is_kept()
    clock.now += SETTLING_SECONDS / 2
    assert placement.is_kept()

    replace(data)

    assert not placement.is_kept()


def test_a_directory_that_keeps_no_times_is_not_believed_for_ever(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file system that does not tell a directory of its names."""
    monkeypatch.setattr("budget_server.database.file_identity._stamp", lambda _: (1,))
    clock = Clock()
    placement = FileIdentity([data / name for name in NAMES], clock=clock)
    for _ in range(2):
        assert placement.is_kept()
        clock.now += SETTLING_SECONDS + 1

    replace(data)
    clock.now += TRUSTED_SECONDS

    assert not placement.is_kept()


def test_other_names_in_the_directory_change_nothing(data: Path) -> None:
    """A journal, a backup, a host's own file beside it."""
    clock = Clock()
    placement = FileIdentity([data / name for name in NAMES], clock=clock)

    for number in range(3):
        (data / f"other-{number}").touch()
        assert placement.is_kept()
        clock.now += SETTLING_SECONDS + 1
        assert placement.is_kept()


def test_a_file_that_is_put_back_is_the_same_again(data: Path) -> None:
    """A person who moved it away by mistake, and back."""
    placement = FileIdentity([data / name for name in NAMES])
    (data / "ledger").rename(data / "elsewhere")
    assert not placement.is_kept()

    (data / "elsewhere").rename(data / "ledger")

    assert placement.is_kept()
