"""What long-running servers take over time: memory, handles, threads, files and latencies, and what of it may grow.

Read from ``/proc``, as Linux has it, so that nothing is installed for it and nothing runs within the servers.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Check

MOST_MEMORY_GROWTH = 1.10
MOST_LATENCY_GROWTH = 1.5
MOST_WAL_BYTES = 8 << 20
"""What SQLite appends to beside a database; it grows where a reader keeps it from being written back."""

FEWEST_CALLS = 100
"""Of a window whose latencies may be judged."""

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """One process at one moment."""

    memory_bytes: int
    """Resident set size."""
    handles: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Vitals":
        """Read them of a process that lives."""
        proc = Path("/proc") / str(pid)
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(
            memory_bytes=int(status["VmRSS"].split()[0]) * 1_024,
            handles=sum(1 for _ in (proc / "fd").iterdir()),
            threads=int(status["Threads"]),
        )


def children() -> set[int]:
    """Give the processes that this one has started and that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Everything that is watched, over one interval.

    Attributes:
        at_seconds: its end, since the load began.
        servers: their vitals at its end, by name.
        ledger_bytes: the ledger and its log.
        wal_bytes: the longest log of any database.
        latencies: seconds of each call that ended in it.
    """

    at_seconds: float
    servers: Mapping[str, Vitals]
    ledger_bytes: int
    wal_bytes: int
    latencies: Sequence[float]

    def line(self) -> str:
        """Write it as a line of the running table."""
        servers = "  ".join(
            f"{name} {vitals.memory_bytes / _MIB:6.1f} MiB {vitals.handles:3} fds {vitals.threads:2} thr"
            for name, vitals in self.servers.items()
        )
        times = "/".join(f"{percentile_ms(self.latencies, percent):.1f}" for percent in (50, 95, 99))
        return (
            f"{self.at_seconds:6.0f} s  {servers}  ledger {self.ledger_bytes / _MIB:6.2f} MiB, longest log "
            f"{self.wal_bytes / _MIB:4.2f}  {len(self.latencies):5} calls, p50/95/99 {times} ms"
        )


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """Give a percentile in milliseconds (nearest rank); 0 where there was nothing."""
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))] * 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The samples of a stretch of time, summed up."""

    samples: Sequence[Sample]

    def median(self, name: str, of: Callable[[Vitals], int]) -> float:
        """Give a server's median of something."""
        return statistics.median(of(sample.servers[name]) for sample in self.samples)

    @property
    def latencies(self) -> list[float]:
        """Seconds of every call in it."""
        return [seconds for sample in self.samples for seconds in sample.latencies]


def compare(first: Window, last: Window) -> tuple[list[tuple[str, str, str]], list[Check]]:
    """Lay the last window beside the first.

    Returns:
        Rows of what, first and last; and whether anything has grown that may not.
    """
    rows: list[tuple[str, str, str]] = []
    checks: list[Check] = []
    for name in first.samples[0].servers:
        memory = [window.median(name, lambda vitals: vitals.memory_bytes) for window in (first, last)]
        handles = [window.median(name, lambda vitals: vitals.handles) for window in (first, last)]
        threads = [window.median(name, lambda vitals: vitals.threads) for window in (first, last)]
        rows += [
            (f"{name}: memory (MiB)", f"{memory[0] / _MIB:.1f}", f"{memory[1] / _MIB:.1f}"),
            (f"{name}: file handles", f"{handles[0]:g}", f"{handles[1]:g}"),
            (f"{name}: threads", f"{threads[0]:g}", f"{threads[1]:g}"),
        ]
        growth = memory[1] / memory[0]
        checks += [
            Check(
                what=f"{name}: memory grows by less than {MOST_MEMORY_GROWTH - 1:.0%}",
                holds=growth < MOST_MEMORY_GROWTH,
                found=f"by {growth - 1:.1%}",
            ),
            # Clients come and go: one more of them, in the middle of its call, is no leak.
            Check(
                what=f"{name}: neither file handles nor threads grow",
                holds=handles[1] <= handles[0] + 2 and threads[1] <= threads[0] + 1,
                found=f"{handles[0]:g} to {handles[1]:g} handles, {threads[0]:g} to {threads[1]:g} threads",
            ),
        ]
    for percent in (50, 95, 99):
        times = [percentile_ms(window.latencies, percent) for window in (first, last)]
        rows.append((f"calls: p{percent} (ms)", f"{times[0]:.2f}", f"{times[1]:.2f}"))
    before, after = (percentile_ms(window.latencies, 95) for window in (first, last))
    checks.append(
        Check(
            what=f"95 % of the calls take at most {MOST_LATENCY_GROWTH} times as long as at first",
            holds=min(len(first.latencies), len(last.latencies)) >= FEWEST_CALLS
            and after <= MOST_LATENCY_GROWTH * before,
            found=f"{before:.2f} ms, then {after:.2f} ms, of {len(first.latencies)} and {len(last.latencies)} calls",
        )
    )
    return rows, checks
