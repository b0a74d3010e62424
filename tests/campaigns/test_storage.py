"""Whatever a disk or another program does to the files: a clear refusal, or the right balance, never a wrong one.

A data directory in which everything has happened is damaged in one place at a time, and then served by a process of its
own, with another first budget in its settings: a ledger that began anew would show it. ``check`` looks at a copy.
"""

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.delegations.store import DELEGATIONS_FILE, SqliteDelegationStore
from budget_server.maintenance.backup import make_backup
from budget_tools.core.errors import StorageUnavailableError
from budget_tools.delegation.store import Outcome, Step
from campaigns import storage_worker
from server.delegations.making import started

TENANT = storage_worker.TENANT
WORKER = Path(storage_worker.__file__)
SEED = int(os.environ.get("CAMPAIGN_SEED", "1"))
FLIPS_PER_PAGE = int(os.environ.get("CAMPAIGN_FLIPS", "2"))
PAGE_BYTES = 4_096
WAL_HEADER_BYTES = 32
FRAME_BYTES = 24 + PAGE_BYTES

FILES = (LEDGER_FILE, DELEGATIONS_FILE)
Plant = Callable[[Path], object]
"""Damages a data directory."""


@dataclass
class Served:
    """Serves data directories in processes of their own, and counts what came of it."""

    process: "subprocess.Popen[str]"
    base: Mapping[str, Path]
    """A data directory as it is after a clean end, and after ``kill -9``."""
    truth: Mapping[str, Any]
    place: Path
    counts: "Counter[str]" = field(default_factory=Counter)

    def serve(self, directory: Path, **order: Any) -> dict[str, Any]:
        """Serve one directory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"directory": str(directory), **order}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def planted(self, name: str, plant: Plant, *, after: str = "ended", **order: Any) -> dict[str, Any]:
        """Damage a copy, serve it, and hold the answer to the one rule."""
        directory = self.place / "data"
        shutil.copytree(self.base[after], directory)
        try:
            plant(directory)
            before = contents(directory)
            answer = self.serve(directory, **order)
            lost = [name for name in FILES if f"{name} has lost its last writes" in answer.get("refused", "")]
            after_it = contents(directory)
            for part in ("", "-wal"):
                for name in lost:
                    assert after_it.get(name + part) == before.get(name + part), "it might still have been saved"
        finally:
            shutil.rmtree(directory)
        self.judge(name, answer)
        return answer

    def judge(self, name: str, answer: Mapping[str, Any]) -> None:
        """A refusal is one sentence that names the file; what is shown besides is true."""
        self.counts["planted"] += 1
        self.counts["found by check"] += bool(answer.get("check"))
        self.counts["refused" if answer.get("refused") else "served correctly"] += 1
        wrong = self._wrong(answer)
        self.counts["wrong"] += bool(wrong)
        assert not wrong, (name, wrong, answer)

    def _wrong(self, answer: Mapping[str, Any]) -> str:
        if "died" in answer:
            return "it died without a word"
        if "failed" in answer:
            return "failed"
        if any("FAILED" in each for each in answer["check"]):
            return "check failed"
        if refusal := answer["refused"]:
            if "\n" in refusal or not refusal.endswith("."):
                return "the refusal is no sentence"
            if not any(part in refusal for part in ("data", "ledger", "delegation", *FILES)):
                return "the refusal does not say where"
        elif answer["spent"] != self.truth["spent"]:
            return "a delegation forgot or invented what it was charged"
        for shown, right in zip(answer["balances"], self.truth["balances"], strict=False):
            if shown != right:
                return f"a wrong balance: {shown}, not {right}"
        return ""


def contents(directory: Path) -> dict[str, bytes]:
    """What is in the databases and their logs; a log that is empty says as much as none."""
    paths = [directory / f"{name}{part}" for name in FILES for part in ("", "-wal")]
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.stat().st_size}


async def fill(directory: Path) -> None:
    """Let everything happen once or more."""
    ledger = LedgerStore(directory / LEDGER_FILE)
    store = SqliteDelegationStore(directory)
    storage_worker.set_budgets(ledger)
    for number in range(12):
        storage_worker.move(ledger, f"before-{number}", 100 + number)
    for name in ("one", "two"):
        # Between the two all is folded into the files: their logs hold the second half alone.
        ledger.close()
        await store.aclose()
        ledger, store = LedgerStore(directory / LEDGER_FILE), SqliteDelegationStore(directory)
        await started(store, name)
        for turn in range(1, 4):
            await storage_worker.take_turn(ledger, store, name, turn)
        await store.write(name, Step(outcome=Outcome(status="max_turns")))
    storage_worker.reserve(ledger, "held", 5_000, ttl_ms=3_600_000)
    shutil.copytree(directory, directory.with_name("killed"))
    ledger.close()
    await store.aclose()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A worker, and what it is to serve."""
    place = tmp_path_factory.mktemp("storage")
    anyio.run(fill, place / "ended")
    process = subprocess.Popen(
        [sys.executable, str(WORKER)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        serving = Served(process, {each: place / each for each in ("ended", "killed")}, {}, place)
        for after in ("ended", "killed"):
            shutil.copytree(place / after, place / "sound")
            answer = serving.serve(place / "sound")
            shutil.rmtree(place / "sound")
            assert (answer["refused"], answer["check"], answer["moved"]) == ("", [], [100])
            assert not serving.truth or serving.truth == {each: answer[each] for each in ("balances", "spent")}
            serving.truth = {each: answer[each] for each in ("balances", "spent")}
        yield serving
        assert process.stdin is not None
        process.stdin.close()
    counted = ", ".join(f"{serving.counts[each]} {each}" for each in COUNTED)
    sys.stderr.write(f"\nstorage campaign, seed {SEED}: {counted}\n")


COUNTED = ("planted", "found by check", "refused", "served correctly", "wrong")


def flip_within(directory: Path, *, name: str, offset: int, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray((directory / name).read_bytes())
    content[offset] ^= 1 << bit
    (directory / name).write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_bit_that_flips_anywhere_in_a_file_shows_no_wrong_amount(served: Served, name: str) -> None:
    """Header, tables, indexes, free space: at random places of every page."""
    chance = random.Random(SEED)  # noqa: S311 - not a secret
    pages = (served.base["ended"] / name).stat().st_size // PAGE_BYTES
    places = [*range(100)]  # SQLite's own header, byte by byte
    for page in range(pages):
        places += [page * PAGE_BYTES + chance.randrange(PAGE_BYTES) for _ in range(FLIPS_PER_PAGE)]
    for offset in places:
        bit = chance.randrange(8)
        plant = functools.partial(flip_within, name=name, offset=offset, bit=bit)
        served.planted(f"{name}: bit {bit} of byte {offset}", plant)


def garble(directory: Path, *, name: str, start: int) -> None:
    """Write over a part of a file."""
    content = bytearray((directory / name).read_bytes())
    content[start : start + 5_000] = random.Random(SEED).randbytes(len(content[start : start + 5_000]))  # noqa: S311
    (directory / name).write_bytes(content)


def cut(directory: Path, *, name: str, size: int) -> None:
    """Cut a file off."""
    os.truncate(directory / name, size)


def wal_of(directory: Path, name: str) -> Path:
    """The write-ahead log of a file."""
    return directory / f"{name}-wal"


@pytest.mark.parametrize("name", FILES)
def test_a_log_that_is_damaged_anywhere_shows_no_wrong_amount(served: Served, name: str) -> None:
    """SQLite drops the tail of such a log without a word, and with it what was spent."""
    chance = random.Random(SEED)  # noqa: S311 - not a secret
    length = wal_of(served.base["killed"], name).stat().st_size
    frames = (length - WAL_HEADER_BYTES) // FRAME_BYTES
    places = [*range(WAL_HEADER_BYTES)]
    for frame in chance.sample(range(frames), min(frames, 60)):
        start = WAL_HEADER_BYTES + frame * FRAME_BYTES
        places += [start + chance.randrange(24), start + 24 + chance.randrange(PAGE_BYTES)]
    refused = 0
    for offset in places:
        bit = chance.randrange(8)
        plant = functools.partial(flip_within, name=f"{name}-wal", offset=offset, bit=bit)
        answer = served.planted(f"{name}-wal: bit {bit} of byte {offset}", plant, after="killed")
        refused += bool(answer["refused"])
    assert refused > 10 or name != LEDGER_FILE, "nothing that matters was damaged"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", ["", "-wal", "-shm"])
def test_a_file_that_was_cut_off_or_garbled_shows_no_wrong_amount(served: Served, name: str, part: str) -> None:
    """At any length, from nothing up; and over any stretch."""
    after = "killed" if part else "ended"
    length = (served.base[after] / f"{name}{part}").stat().st_size
    chance = random.Random(SEED)  # noqa: S311 - not a secret
    for size in (0, 1, 99, 512, PAGE_BYTES, *(chance.randrange(length) for _ in range(8))):
        cutting = functools.partial(cut, name=f"{name}{part}", size=size)
        served.planted(f"{name}{part} cut at {size}", cutting, after=after)
        garbling = functools.partial(garble, name=f"{name}{part}", start=size)
        served.planted(f"{name}{part} garbled from {size}", garbling, after=after)


def exchange(directory: Path) -> None:
    """Let two files take each other's place."""
    (directory / LEDGER_FILE).rename(directory / "x")
    (directory / DELEGATIONS_FILE).rename(directory / LEDGER_FILE)
    (directory / "x").rename(directory / DELEGATIONS_FILE)


def set_version(path: Path, version: int) -> None:
    """Claim another schema."""
    db = apsw.Connection(str(path))
    db.pragma("user_version", version)
    db.close()


def displace(path: Path) -> None:
    """Put a directory in a file's place."""
    path.unlink()
    path.mkdir()


def set_back(directory: Path) -> None:
    """Put the ledger back to before something was spent, as somebody does who copies files by hand."""
    older = (directory / LEDGER_FILE).read_bytes()
    store = LedgerStore(directory / LEDGER_FILE)
    storage_worker.move(store, "since")
    store.close()
    (directory / LEDGER_FILE).write_bytes(older)


GONE: dict[str, tuple[str, Plant, str]] = {
    "the ledger is empty": ("ended", lambda at: os.truncate(at / LEDGER_FILE, 0), "is empty, though it had budgets"),
    "the delegations are empty": ("ended", lambda at: os.truncate(at / DELEGATIONS_FILE, 0), "though it had"),
    "the ledger's log is gone": ("killed", lambda at: wal_of(at, LEDGER_FILE).unlink(), "has lost its last writes"),
    "a text in the ledger's place": ("ended", lambda at: (at / LEDGER_FILE).write_text("Hello.\n" * 999), "cannot be"),
    "the files changed places": ("ended", exchange, "is not a budget ledger"),
    "a later version's ledger": ("ended", lambda at: set_version(at / LEDGER_FILE, 99), "by a later version"),
    "later delegations": ("ended", lambda at: set_version(at / DELEGATIONS_FILE, 99), "by a later version"),
    "a directory in the ledger's place": ("ended", lambda at: displace(at / LEDGER_FILE), "cannot be used"),
    "an older copy in the ledger's place": ("ended", set_back, "has lost its last writes"),
}


@pytest.mark.parametrize("name", GONE)
def test_what_would_begin_anew_or_go_on_wrong_is_refused(served: Served, name: str) -> None:
    """And ``check`` finds it; no file is touched by that, so that what can be saved still can."""
    after, plant, says = GONE[name]

    answer = served.planted(name, plant, after=after)

    assert says in answer["refused"]
    assert answer["check"]


@pytest.mark.parametrize("name", ["with spaces", "Grüße, 日本", "x" * 255, "/".join(["y" * 200] * 12)])
def test_any_path_serves(served: Served, tmp_path: Path, name: str) -> None:
    """Or is refused in a sentence, where it is longer than SQLite takes."""
    directory = tmp_path / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(served.base["ended"], directory)

    served.judge(name, served.serve(directory, check=False))


@pytest.mark.parametrize("count", range(7, 40, 2))
def test_few_descriptors_serve_or_refuse(served: Served, count: int) -> None:
    """RLIMIT_NOFILE."""
    served.planted(f"{count} descriptors", lambda _: None, limits={"RLIMIT_NOFILE": count})


@pytest.mark.parametrize("size", [1, 40, 4_096, 32_768, 65_536, 120_000])
def test_files_that_cannot_grow_serve_or_refuse(served: Served, size: int) -> None:
    """RLIMIT_FSIZE, as on a full disk: from the first byte on, or somewhere in the middle."""
    served.planted(f"files of {size} bytes at most", lambda _: None, limits={"RLIMIT_FSIZE": size})


LIVE: dict[str, Plant] = {
    "the log deleted": lambda at: wal_of(at, LEDGER_FILE).unlink(),
    "the ledger deleted": lambda at: (at / LEDGER_FILE).unlink(),
    "the ledger replaced by a copy": lambda at: replace(at / LEDGER_FILE),
    "the log replaced by a copy": lambda at: replace(wal_of(at, LEDGER_FILE)),
}


def replace(path: Path) -> None:
    """Put another file in its place, as editors and synchronisers do."""
    other = path.with_name("other")
    shutil.copyfile(path, other)
    other.rename(path)


@pytest.mark.parametrize("name", LIVE)
def test_files_replaced_beneath_a_server_take_no_more_writes(served: Served, tmp_path: Path, name: str) -> None:
    """What was written there nobody would find again; putting it right and starting again serves."""
    directory = tmp_path / "data"
    shutil.copytree(served.base["ended"], directory)
    store = LedgerStore(directory / LEDGER_FILE)
    storage_worker.move(store, "before")
    LIVE[name](directory)

    for attempt in ("now", "again"):
        with pytest.raises(StorageUnavailableError, match="was deleted or replaced while it was in use"):
            storage_worker.move(store, attempt)
    served.counts["planted"] += 1
    served.counts["refused"] += 1
    store.close()


def test_a_backup_beside_a_writer_is_of_one_moment(served: Served, tmp_path: Path) -> None:
    """Each is checked: what its delegations say was charged, its ledger has charged. None is torn between the two."""
    data = tmp_path / "data"
    shutil.copytree(served.base["ended"], data)
    writer = subprocess.Popen(
        [sys.executable, str(WORKER), str(data)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        turns = []
        for number in range(25):
            assert writer.stdout.readline()  # it has gone on since the last one
            inspection = make_backup(data, tmp_path / f"backup-{number}")
            turns.append(int(re.findall(r"with (\d+) turns", str(inspection.counts))[0]))
        writer.stdin.close()
        writer.stdout.read()

    assert writer.returncode == 0
    assert turns == sorted(turns)
    assert turns[-1] > turns[0] > 6
