"""What the benchmarks share: measuring contenders side by side, and showing what came out.

Contenders are measured in *rounds*: each does its piece of work once per round, in turns that reverse every round
(A B, B A, A B, …), so that a machine whose speed drifts drifts for both. A ratio is taken within each round; quoted are
its median and quartiles over all rounds. The first rounds warm up and do not count.

Times are floats of seconds inside and milliseconds where they are shown. No time is judged: a target stands beside its
ratio, and the exit code does not depend on it. It depends on the checks alone: statements about what the measured work
did, which hold or do not, however fast it was.

Several benchmarks share one Markdown page: each writes the section under its own title and leaves the others alone.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PAGE_HEADING = """\
# Benchmarks

Each section is written by the command that stands in it: run it to compare on your machine.
"""

MIN_ROUNDS = 2
"""Fewest counted rounds, even where they take longer than they may: less has no spread."""

Times = Mapping[str, Sequence[float]]
"""Seconds of every single measurement of one round, by what was measured."""

Contender = Callable[[], Awaitable[Times]]
"""Does one round's work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """All counted measurements of one piece of work, in seconds, round by round."""

    name: str
    rounds: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        """How many single measurements there are."""
        return sum(map(len, self.rounds))

    def percentile_ms(self, percent: float) -> float:
        """Give a percentile over all rounds, in milliseconds (nearest rank)."""
        ordered = sorted(seconds for one_round in self.rounds for seconds in one_round)
        rank = min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))
        return ordered[rank] * 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Our work beside a baseline, measured in the same rounds."""

    work: str
    ours: Series
    baseline: Series
    target_ratio: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Median of ours over median of the baseline, of each round."""
        pairs = zip(self.ours.rounds, self.baseline.rounds, strict=True)
        return tuple(statistics.median(ours) / statistics.median(baseline) for ours, baseline in pairs)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def ratio_quartiles(self) -> tuple[float, float]:
        """The first and third quartile of the rounds' ratios: how far they spread."""
        first, _, third = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A statement about what the measured work did."""

    what: str
    holds: bool
    found: str
    """What is said where it does not hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One run of one benchmark."""

    title: str
    command: str
    """The command line that repeats it, from the project's root."""

    comparisons: tuple[Comparison, ...]
    facts: Mapping[str, str]
    """What a reader must know about the run, beside the machine."""

    caveats: str
    checks: Sequence[Check] = ()


async def measure_rounds(
    contenders: Sequence[Contender], *, rounds: int, warm_up_rounds: int, limit_seconds: float = math.inf
) -> dict[str, Series]:
    """Measure contenders in turns and give each piece of work its series.

    Args:
        contenders: each is called once per round; what they measure has distinct names.
        rounds: counted rounds.
        warm_up_rounds: rounds before them that are not counted.
        limit_seconds: once the counted rounds have taken this long, no other is begun (``MIN_ROUNDS`` always run).
    """
    for _ in range(warm_up_rounds):
        for contender in contenders:
            await contender()
    collected: dict[str, list[tuple[float, ...]]] = {}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - begun > limit_seconds:
            break
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            for name, seconds in (await contender()).items():
                collected.setdefault(name, []).append(tuple(seconds))
    return {name: Series(name=name, rounds=tuple(taken)) for name, taken in collected.items()}


def flush_ms(directory: Path, *, count: int = 50, pause_seconds: float = 0.003) -> float:
    """Measure what one small durable write costs in a directory: the median of appending 4 KiB and flushing it.

    Args:
        directory: where to write; the file is removed.
        count: how many writes.
        pause_seconds: what lies between them, as between calls; back to back, a disk answers faster than it will there.
    """
    path = directory / "flush-probe"
    taken: list[float] = []
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            time.sleep(pause_seconds)
            begun = time.perf_counter()
            os.write(fd, bytes(4_096))
            os.fsync(fd)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(taken) * 1_000


def machine() -> dict[str, str]:
    """Say what this ran on, as far as it bears on the figures."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in ("cycles-budget-mcp", "mcp", "pydantic", "apsw")),
        "date": datetime.now(UTC).date().isoformat(),
        "load": _load(),
    }


def _load() -> str:
    """Say how busy the machine was, the benchmark's own work included: other work widens every spread."""
    if sys.platform == "win32":
        return "unknown"
    last_minute, last_five_minutes, _ = os.getloadavg()
    return f"{last_minute:.1f} over the last minute, {last_five_minutes:.1f} over the last five"


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has for where its results go."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single measurement, as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write a section of this Markdown page")


def publish(report: Report, arguments: argparse.Namespace) -> None:
    """Print a report, and write it wherever the command line asked.

    Raises:
        SystemExit: a check does not hold.
    """
    described = {**machine(), **report.facts}
    print(f"{report.title}\n")
    print("\n".join(f"{name + ':':<24} {value}" for name, value in described.items()), end="\n\n")
    rows = _rows(report)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    print(f"\n{report.caveats}")
    if report.checks:
        print("\n" + "\n".join(map(_checked, report.checks)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_json(report, described), indent=1) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        _write_section(arguments.markdown, report.title, _markdown(report, described, rows))
    if not all(check.holds for check in report.checks):
        raise SystemExit("A check does not hold: what was measured is not what it should be.")


def _checked(check: Check) -> str:
    return f"holds: {check.what}" if check.holds else f"FAILS: {check.what} (found: {check.found})"


def _write_section(page: Path, title: str, section: str) -> None:
    """Put a section in the place of the one of the same title, or at the end of the page."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, *present = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {each.partition("\n")[0]: f"## {each.strip()}\n" for each in present}
    sections[title] = section
    page.write_text("\n".join([PAGE_HEADING, *sections.values()]), encoding="utf-8")


def _rows(report: Report) -> list[tuple[str, ...]]:
    header = ("work", "n", "p50 ms", "p99 ms", "baseline", "p50 ms", "p99 ms", "ratio (quartiles)", "target")
    rows: list[tuple[str, ...]] = [header]
    for comparison in report.comparisons:
        ours, baseline = comparison.ours, comparison.baseline
        low, high = comparison.ratio_quartiles
        rows.append(
            (
                comparison.work,
                str(ours.count),
                _shown(ours.percentile_ms(50)),
                _shown(ours.percentile_ms(99)),
                baseline.name,
                _shown(baseline.percentile_ms(50)),
                _shown(baseline.percentile_ms(99)),
                f"{comparison.ratio:.2f} ({low:.2f}-{high:.2f})",
                "" if comparison.target_ratio is None else f"≤ {comparison.target_ratio:.2f}",
            )
        )
    return rows


def _shown(ms: float) -> str:
    return f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def _markdown(report: Report, described: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    table = [header, ["---"] * len(header), *body]
    lines = [
        f"## {report.title}",
        "",
        f"    {report.command}",
        "",
        *(f"- {name}: {value}" for name, value in described.items()),
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        report.caveats,
    ]
    if report.checks:
        lines += ["", *(f"- {_checked(check)}" for check in report.checks)]
    return "\n".join(lines) + "\n"


def _json(report: Report, described: Mapping[str, str]) -> dict[str, object]:
    return {
        "title": report.title,
        "command": report.command,
        "described": dict(described),
        "checks": [{"what": check.what, "holds": check.holds, "found": check.found} for check in report.checks],
        "comparisons": [
            {
                "work": comparison.work,
                "baseline": comparison.baseline.name,
                "ratio": comparison.ratio,
                "ratio_quartiles": comparison.ratio_quartiles,
                "target_ratio": comparison.target_ratio,
                "ours_seconds": comparison.ours.rounds,
                "baseline_seconds": comparison.baseline.rounds,
            }
            for comparison in report.comparisons
        ],
    }
