"""Many processes and one budget: exactly what there is may be granted, and nobody may be left waiting.

The tries are split into pieces, and before each the budget gets what half of that piece asks for. So grants, which are
flushed, and denials, which are not, come in every piece, and each piece has to grant exactly its half.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.bare_ledger import make_bare_ledger
from benchmarks.embedded import find_faults, provision
from benchmarks.harness import Check, Comparison, Times, measure_rounds
from benchmarks.ledger_worker import CALLERS

PROCESSES = 8
PIECES = 10
"""The first one warms up."""

_WORKER = Path(__file__).with_name("ledger_worker.py")


class Contention(NamedTuple):
    """What the processes add to the report."""

    comparison: Comparison
    facts: dict[str, str]
    checks: tuple[Check, ...]


class Crowd:
    """Processes that reserve from one ledger, and what came of it.

    Args:
        name: what their time for each try is measured as.
        path: their ledger.
        processes: ``ledger_worker.py``, each of them ready.
        tries: of all of them together in a piece.
    """

    def __init__(self, name: str, path: Path, processes: list["subprocess.Popen[str]"], tries: int) -> None:
        self._name = name
        self._path = path
        self._processes = processes
        self._tries = tries
        self.statuses: Counter[str] = Counter()
        self.grants_of_process = [0] * len(processes)
        self.exact_pieces = 0
        self.pieces = 0
        self._seconds: list[float] = []
        self._held_seconds: list[float] = []

    async def try_piece(self) -> Times:
        """Let every process make its share of the tries, and give what each took of the time of all."""
        granted_before = self.granted
        provision(self._path, root_amount=granted_before + self._tries // 2)
        begun = time.perf_counter()
        for process in self._processes:
            _pipe(process.stdin).write(f"{self._tries // len(self._processes)}\n")
            _pipe(process.stdin).flush()
        lines = [_pipe(process.stdout).readline() for process in self._processes]
        seconds_each = (time.perf_counter() - begun) / self._tries
        for number, line in enumerate(lines):
            answered: dict[str, Any] = json.loads(line)
            self.statuses.update(answered["statuses"])
            self.grants_of_process[number] += answered["statuses"].get("200", 0)
            self._seconds += answered["seconds"]
            self._held_seconds += answered["held_seconds"]
        self.pieces += 1
        self.exact_pieces += self.granted - granted_before == self._tries // 2
        return {self._name: [seconds_each]}

    @property
    def granted(self) -> int:
        """How many tries were granted so far."""
        return self.statuses["200"]

    def waits(self) -> str:
        """Say how long an answer took, and how evenly the processes got theirs."""
        median, high = _percentiles_ms(self._seconds)
        return (
            f"p50 {median:.2f} ms, p99 {high:.2f} ms, longest {max(self._seconds) * 1_000:.0f} ms; "
            f"{min(self.grants_of_process):,} to {max(self.grants_of_process):,} grants a process"
        )

    def holds(self) -> str:
        """Say for how long a call held its process's event loop at most."""
        median, high = _percentiles_ms(self._held_seconds)
        return f"p50 {median:.2f} ms, p99 {high:.2f} ms, longest {max(self._held_seconds) * 1_000:.0f} ms"


async def measure_contention(directory: Path, tries: int) -> Contention:
    """Let processes try for so much together, through the client and, in turns with that, by bare transactions.

    Args:
        directory: where their ledgers are made.
        tries: how many; as many as share evenly into pieces and processes are made.
    """
    ours_path, bare_path = directory / "contended.db", directory / "contended-bare.db"
    provision(ours_path, root_amount=0)
    await make_bare_ledger(bare_path, root_amount=0)
    piece = max(1, tries // (PIECES * PROCESSES)) * PROCESSES
    ours_name = f"a try, {PROCESSES} processes x {CALLERS} callers"
    bare_name = f"bare transaction, {PROCESSES} processes"
    with _workers("client", ours_path) as our_processes, _workers("bare", bare_path) as bare_processes:
        ours = Crowd(ours_name, ours_path, our_processes, piece)
        bare = Crowd(bare_name, bare_path, bare_processes, piece)
        series = await measure_rounds((ours.try_piece, bare.try_piece), rounds=PIECES - 1, warm_up_rounds=1)
    half = ours.pieces * piece // 2
    if bare.granted != half:
        raise RuntimeError(f"Bare transactions were granted {bare.granted}, not {half}, so their time means nothing.")
    faults = find_faults(ours_path, granted=ours.granted)
    per_second = 1 / statistics.median(each for (each,) in series[ours_name].rounds)
    return Contention(
        Comparison(work=ours_name, ours=series[ours_name], baseline=series[bare_name]),
        {
            f"throughput, {PROCESSES} processes": f"{per_second:,.0f} tries a second",
            f"answers, {PROCESSES} processes": ours.waits(),
            f"loop held, {PROCESSES} processes": ours.holds(),
            f"bare ones, {PROCESSES} processes": bare.waits(),
        },
        (
            Check(
                what=f"of {2 * half:,} tries {half:,} are granted and as many denied, exactly half of each piece",
                holds=ours.statuses == {"200": half, "409": half} and ours.exact_pieces == ours.pieces,
                found=f"{dict(ours.statuses)}, {ours.exact_pieces} of {ours.pieces} pieces exact",
            ),
            Check(
                what="afterwards every budget adds up and holds exactly what was granted",
                holds=not faults,
                found="; ".join(faults),
            ),
        ),
    )


@contextmanager
def _workers(kind: str, path: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start processes and wait until all are ready; they end when they are told no more, or are killed."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(_WORKER), kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            if _pipe(process.stdout).readline() != "ready\n":
                raise RuntimeError("A worker did not start.")
        yield processes
        for process in processes:
            process.communicate()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("A worker was started without pipes.")
    return pipe


def _percentiles_ms(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1_000, cuts[98] * 1_000
