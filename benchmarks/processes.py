"""Many processes and one budget: exactly what there is may be granted, and nobody may be left waiting.

Eight processes, each reserving through the client as fast as it is answered, beside one process alone, and beside eight
that run bare transactions and leave the waiting to SQLite. The tries are split into pieces, and before each the budget
gets what half of that piece asks for. So grants, which are flushed, and denials, which are not, come in every piece,
and each piece has to grant exactly its half.
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
from typing import Any

from benchmarks.bare_ledger import make_bare_ledger
from benchmarks.embedded import find_faults, provision
from benchmarks.harness import (
    Check,
    Comparison,
    Figure,
    Growth,
    Report,
    Run,
    Series,
    Times,
    measure_rounds,
    run,
    waits_text,
)
from benchmarks.instant_authority import pipe

PROCESSES = 8
PIECES = 10
"""The first one warms up."""

TRIES, QUICK_TRIES = 8_000, 1_600
"""Of all processes together in a piece."""

OURS, ALONE = f"a try, {PROCESSES} processes", "a try, one process"
BARE, BARE_ALONE = f"bare transaction, {PROCESSES} processes", "bare transaction, one process"

_WORKER = Path(__file__).with_name("ledger_worker.py")


class Crowd:
    """Processes that reserve from one ledger, and what came of it.

    Args:
        name: what their time for each try is measured as.
        path: their ledger.
        processes: ``ledger_worker.py``, each of them ready.
        tries: of all of them together in a piece.
    """

    def __init__(self, name: str, path: Path, processes: list["subprocess.Popen[str]"], tries: int) -> None:
        self.name = name
        self._path = path
        self._processes = processes
        self.tries = tries
        self.statuses: Counter[str] = Counter()
        self.grants_of_process = [0] * len(processes)
        self.exact_pieces = 0
        self.pieces = 0
        self.seconds: list[float] = []
        self._held_seconds: list[float] = []

    async def try_piece(self) -> Times:
        """Let every process make its share of the tries, and give what each took of the time of all."""
        granted_before = self.granted
        provision(self._path, root_amount=granted_before + self.tries // 2)
        begun = time.perf_counter()
        for process in self._processes:
            pipe(process.stdin).write(f"{self.tries // len(self._processes)}\n")
            pipe(process.stdin).flush()
        lines = [pipe(process.stdout).readline() for process in self._processes]
        seconds_each = (time.perf_counter() - begun) / self.tries
        for number, line in enumerate(lines):
            answered: dict[str, Any] = json.loads(line)
            self.statuses.update(answered["statuses"])
            self.grants_of_process[number] += answered["statuses"].get("200", 0)
            if self.pieces:  # the first one warms up
                self.seconds += answered["seconds"]
                self._held_seconds += answered["held_seconds"]
        self.pieces += 1
        self.exact_pieces += self.granted - granted_before == self.tries // 2
        return {self.name: [seconds_each]}

    @property
    def granted(self) -> int:
        """How many tries were granted so far."""
        return self.statuses["200"]

    def waits(self) -> str:
        """Say how long an answer took, and how evenly the processes got theirs."""
        fewest, most = min(self.grants_of_process), max(self.grants_of_process)
        return f"{waits_text(self.seconds)}; {fewest:,} to {most:,} grants a process"

    @property
    def fairness(self) -> float:
        """Jain's index of the grants: 1 where all processes got as many, 1/n where one got all."""
        return sum(self.grants_of_process) ** 2 / (
            len(self.grants_of_process) * sum(each**2 for each in self.grants_of_process)
        )

    def holds(self) -> str:
        """Say for how long a call held its process's event loop at most."""
        return waits_text(self._held_seconds)


async def measure(given: Run) -> Report:
    """Let all crowds try in turns, then ours for ever more."""
    paths = {name: given.directory / f"{number}.db" for number, name in enumerate((OURS, ALONE, BARE, BARE_ALONE))}
    for name in (OURS, ALONE):
        provision(paths[name], root_amount=0)
    for name in (BARE, BARE_ALONE):
        await make_bare_ledger(paths[name], root_amount=0)
    tries = QUICK_TRIES if given.is_quick else TRIES
    with (
        _workers("client", paths[OURS], PROCESSES) as ours_processes,
        _workers("client", paths[ALONE], 1) as alone_process,
        _workers("bare", paths[BARE], PROCESSES) as bare_processes,
        _workers("bare", paths[BARE_ALONE], 1) as bare_process,
    ):
        ours = Crowd(OURS, paths[OURS], ours_processes, tries)
        alone = Crowd(ALONE, paths[ALONE], alone_process, tries // PROCESSES)
        bare = Crowd(BARE, paths[BARE], bare_processes, tries)
        bare_alone = Crowd(BARE_ALONE, paths[BARE_ALONE], bare_process, tries // PROCESSES)
        crowds = (ours, alone, bare, bare_alone)
        series = await measure_rounds([each.try_piece for each in crowds], rounds=PIECES - 1, warm_up_rounds=1)
        half = ours.pieces * tries // 2
        is_exact = ours.statuses == {"200": half, "409": half} and ours.exact_pieces == ours.pieces
        found = f"{dict(ours.statuses)}, {ours.exact_pieces} of {ours.pieces} pieces exact"
        if any(each.exact_pieces != each.pieces for each in (bare, bare_alone)):
            raise RuntimeError("Bare transactions were not granted their half, so their time means nothing.")
        waits = {f"answers, {each.name}": each.waits() for each in crowds}
        worst = max(ours.seconds) / statistics.median(bare_alone.seconds)
        fairness, holds = ours.fairness, ours.holds()
        points = {size: await _at_size(ours, size) for size in given.sizes(10 * PROCESSES)}
    faults = find_faults(paths[OURS], granted=ours.granted)
    return Report(
        title="Many processes and one budget",
        comparisons=(
            Comparison(work=OURS, ours=series[OURS], baseline=series[ALONE], target_ratio=2.5),
            Comparison(work=OURS, ours=series[OURS], baseline=series[BARE]),
        ),
        figures=(
            Figure(
                what=f"fairness of {PROCESSES} processes (Jain's index of their grants)",
                value=fairness,
                target="≥ 0.99",
            ),
            Figure(what="longest of all waits, in bare transactions of one process", value=worst, target="≤ 200"),
        ),
        growth=(Growth(work=OURS, of="tries of all together", points=points),),
        facts={**waits, f"loop held, {OURS}": holds},
        caveats="A try is the time of all over their number; one half of the tries is granted, and flushed, one half "
        "denied. Eight processes on fewer processors wait for these as well as for each other. A target of 2.50 for "
        "the time of a try is 0.4 of the rate.",
        checks=(
            Check(
                what=f"of {2 * half:,} tries {half:,} are granted and as many denied, exactly half of each piece",
                holds=is_exact,
                found=found,
            ),
            Check(
                what="afterwards every budget adds up and holds exactly what was granted",
                holds=not faults,
                found="; ".join(faults),
            ),
        ),
    )


async def _at_size(crowd: Crowd, tries: int) -> Series:
    crowd.tries = tries
    return Series(name=OURS, rounds=tuple([tuple((await crowd.try_piece())[OURS]) for _ in range(3)]))


@contextmanager
def _workers(kind: str, path: Path, count: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start processes and wait until all are ready; they end when they are told no more, or are killed."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(_WORKER), kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            if pipe(process.stdout).readline() != "ready\n":
                raise RuntimeError("A worker did not start.")
        yield processes
        for process in processes:
            process.communicate()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    run("benchmarks.processes", measure, __doc__)
