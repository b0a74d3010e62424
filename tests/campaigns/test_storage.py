"""Whatever a disk or another program does to the files: a clear refusal, or the right balance, never a wrong one.

A data directory in which everything has happened is damaged in one place at a time, and then served by a process of its
own, with another first budget in its settings: a ledger that began anew would show it. ``check`` looks at a copy.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.authority.store import LedgerStore
from budget_server.delegations.store import DELEGATIONS_FILE, SqliteDelegationStore
from budget_server.services import LEDGER_FILE
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import Message, Outcome, Step
from budget_tools.money import Money
from campaigns import storage_worker
from server.delegations.making import spend, started

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
            answer = self.serve(directory, **order)
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


async def _fill(directory: Path) -> None:
    """Let everything happen once or more."""
    ledger = LedgerStore(directory / LEDGER_FILE)
    store = SqliteDelegationStore(directory)
    ledger.run(
        lambda opened: opened.db.execute(
            "INSERT INTO budgets (scope, unit, tenant, allocated, remaining) VALUES"
            " ('tenant:acme', 'USD_MICROCENTS', 'acme', 1000000, 1000000),"
            " ('tenant:acme/agent:bot', 'USD_MICROCENTS', 'acme', 500000, 500000)"
        )
    )
    for number in range(12):
        storage_worker.move(ledger, f"before-{number}", 100 + number)
    for name in ("one", "two"):
        await started(store, name)
        total = 0
        for turn in range(1, 4):
            request = storage_worker.reserve_request(f"{name}-{turn}", 1_000)
            reserved = ledger.run(lambda opened, request=request: opened.reserve(TENANT, request))
            reservation_id = reserved.body["reservation_id"]
            await store.depart(name, spend(reservation_id, 1_000, turn=turn))
            total += 700 + turn
            record = TurnRecord(
                number=turn,
                model="claude",
                reservation_id=reservation_id,
                reserved=Money.of(1_000, "USD_MICROCENTS"),
                charged=Money.of(700 + turn, "USD_MICROCENTS"),
                actual_source="usage",
            )
            words = [Message(role="user", content="Go on. " * 300), Message(role="assistant", content="Yes. " * 300)]
            await store.write(name, Step(turn=record, messages=words, spent_microcents=total))
            commit = storage_worker.commit_request(f"{name}-{turn}", 700 + turn)
            ledger.run(lambda opened, at=reservation_id, commit=commit: opened.commit(TENANT, at, commit))
            await store.write(name, Step(struck=[reservation_id]))
        await store.write(name, Step(outcome=Outcome(status="max_turns")))
    ledger.run(lambda opened: opened.reserve(TENANT, storage_worker.reserve_request("held", 5_000, ttl_ms=3_600_000)))
    shutil.copytree(directory, directory.with_name("killed"))
    ledger.close()
    await store.aclose()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A worker, and what it is to serve."""
    place = tmp_path_factory.mktemp("storage")
    anyio.run(_fill, place / "ended")
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


def flip(path: Path, offset: int, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


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
        served.planted(f"{name}: bit {bit} of byte {offset}", lambda at, o=offset, b=bit: flip(at / name, o, b))
