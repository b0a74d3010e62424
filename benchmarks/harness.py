"""What the benchmarks share: measuring contenders side by side, and showing what came out.

Contenders are measured in *rounds*: each does its piece of work once per round, in turns that reverse every round
(A B, B A, A B, …), so that a machine whose speed drifts drifts for both. A ratio is taken within each round; quoted are
its median and quartiles over all rounds. The first rounds warm up and do not count.

Times are floats of seconds inside and milliseconds where they are shown. No time is judged: a target stands beside its
ratio, and the exit code does not depend on it. It depends on the checks alone: statements about what the measured work
did, which hold or do not, however fast it was. A rate is compared by its inverse, the time of one piece of work.

Every benchmark is a module of its own, which says what it measures (``run``). They share one Markdown page: each writes
the section under its own title and leaves the others alone; ``python -m benchmarks`` runs them all.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import anyio

PAGE_HEADING = """\
# Benchmarks

`make bench` writes this page, but for *Where a target is missed*. Each section is written by the command that stands in
it: run it to compare on your machine.
"""

CAVEATS = (
    "The ratio is the median over rounds of ours to the baseline, both measured within the same round; absolute times "
    "are this machine's."
)

MIN_ROUNDS = 2
"""Fewest counted rounds, even where they take longer than they may: less has no spread."""

Times = Mapping[str, Sequence[float]]
"""Every single measurement of one round, by what was measured: seconds, where nothing else is said."""

Contender = Callable[[], Awaitable[Times]]
"""Does one round's work."""


class Unit(NamedTuple):
    """How measurements are shown."""

    name: str
    per_measured: float
    """How many of it one that was measured is: 1,000 ms are a second."""


MS = Unit("ms", 1_000)
MIB = Unit("MiB", 1 / 1_048_576)
"""For measurements in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """All counted measurements of one piece of work, round by round."""

    name: str
    rounds: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        """How many single measurements there are."""
        return sum(map(len, self.rounds))

    def percentile(self, percent: float) -> float:
        """Give a percentile over all rounds, as measured (nearest rank)."""
        ordered = sorted(measured for one_round in self.rounds for measured in one_round)
        return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Our work beside a baseline, measured in the same rounds."""

    work: str
    ours: Series
    baseline: Series
    target_ratio: float | None = None
    unit: Unit = MS

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
class Growth:
    """The same work at several sizes: whether a piece of it comes to cost more where there is more of it."""

    work: str
    """What a piece is: "a reserve"."""
    of: str
    """What grows: "calls in a row"."""
    points: Mapping[int, Series]
    """A piece's measurements, by the size."""
    unit: Unit = MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number that is no ratio of times."""

    what: str
    value: float
    target: str
    """What it should be: "≥ 0.99"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One run of one benchmark."""

    title: str
    comparisons: Sequence[Comparison]
    figures: Sequence[Figure] = ()
    growth: Sequence[Growth] = ()
    facts: Mapping[str, str]
    """What a reader must know about the run, beside the machine."""

    caveats: str = CAVEATS
    checks: Sequence[Check] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a benchmark is given."""

    directory: Path
    """For its files; it is removed afterwards."""

    is_quick: bool
    """Whether a rough figure will do."""

    def new_directory(self, name: str) -> Path:
        """Make a directory for files of their own."""
        directory = self.directory / name
        directory.mkdir()
        return directory

    def sizes(self, smallest: int) -> tuple[int, ...]:
        """Give the sizes at which growth is looked at: 1, 10 and 100 times the smallest; not the last in a hurry."""
        return tuple(smallest * times for times in ((1, 10) if self.is_quick else (1, 10, 100)))


def run(module: str, measure: Callable[[Run], Awaitable[Report]], doc: str | None) -> None:
    """Be a benchmark's command line; the exit code says that its checks hold, never how fast it was.

    Args:
        module: the module's name, as it is run by ``python -m``.
        measure: what it does.
        doc: the module's docstring, whose first line says what it is for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a rough figure in less time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single measurement, as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write a section of this Markdown page")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where temporary ledgers are made (default: the system's)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cycles-budget-bench-", dir=arguments.directory) as made:
        directory = Path(made)
        flush = f"{flush_ms(directory):.2f} ms (4 KiB appended and fsynced beside the ledger)"
        report = anyio.run(measure, Run(directory=directory, is_quick=arguments.quick))
    command = f"python -m {module}{' --quick' if arguments.quick else ''} --markdown docs/benchmarks.md"
    publish(report, command, {**machine(), "one disk flush": flush, **report.facts}, arguments)


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


def publish(report: Report, command: str, described: Mapping[str, str], arguments: argparse.Namespace) -> None:
    """Print a report, and write it wherever the command line asked.

    Raises:
        SystemExit: a check does not hold.
    """
    print(f"{report.title}\n")
    print("\n".join(f"{name + ':':<24} {value}" for name, value in described.items()), end="\n\n")
    tables = [table for table in (_rows(report), _figure_rows(report), _growth_rows(report)) if len(table) > 1]
    for table in tables:
        print(_aligned(table))
    print(report.caveats)
    if report.checks:
        print("\n" + "\n".join(map(_checked, report.checks)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_json(report, command, described), indent=1) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        write_section(arguments.markdown, report.title, _markdown(report, command, described, tables))
    if not all(check.holds for check in report.checks):
        raise SystemExit("A check does not hold: what was measured is not what it should be.")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _checked(check: Check) -> str:
    return f"holds: {check.what}" if check.holds else f"FAILS: {check.what} (found: {check.found})"


def write_section(page: Path, title: str, section: str, *, is_first: bool = False) -> None:
    """Put a section in the place of the one of the same title, or at the end of the page."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, *present = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {each.partition("\n")[0]: f"## {each.strip()}\n" for each in present}
    sections = {title: section, **sections} if is_first else sections
    sections[title] = section
    page.write_text("\n".join([PAGE_HEADING, *sections.values()]), encoding="utf-8")


def waits_text(seconds: Sequence[float]) -> str:
    """Say how long single answers took."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1_000:.2f} ms, p99 {cuts[98] * 1_000:.2f} ms, longest {max(seconds) * 1_000:.0f} ms"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write the lines of a table, the first row being its heading."""
    header, *body = rows
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)]


def target_text(target_ratio: float | None) -> str:
    """Show what a ratio should be at most."""
    return "" if target_ratio is None else f"≤ {target_ratio:.2f}"


def _rows(report: Report) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("work", "n", "p50", "p99", "baseline", "p50", "p99", "ratio (quartiles)", "target")]
    for comparison in report.comparisons:
        ours, baseline, unit = comparison.ours, comparison.baseline, comparison.unit
        low, high = comparison.ratio_quartiles
        rows.append(
            (
                comparison.work,
                f"{ours.count:,}",
                _shown(ours.percentile(50), unit),
                _shown(ours.percentile(99), unit),
                baseline.name,
                _shown(baseline.percentile(50), unit),
                _shown(baseline.percentile(99), unit),
                f"{comparison.ratio:.2f} ({low:.2f}-{high:.2f})",
                target_text(comparison.target_ratio),
            )
        )
    return rows


def _figure_rows(report: Report) -> list[Sequence[str]]:
    return [
        ("figure", "found", "target"),
        *((figure.what, figure_text(figure.value), figure.target) for figure in report.figures),
    ]


def figure_text(value: float) -> str:
    """Show a number to four digits or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _growth_rows(report: Report) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("as it grows: p50 of", "", "1 x", "10 x", "100 x")]
    for growth in report.growth:
        cells = [f"{size:,}: {_shown(series.percentile(50), growth.unit)}" for size, series in growth.points.items()]
        rows.append((growth.work, growth.of, *cells, *[""] * (3 - len(cells))))
    return rows


def _shown(measured: float, unit: Unit) -> str:
    value = measured * unit.per_measured
    return f"{value:.2f} {unit.name}" if value >= 1 else f"{value:.3f} {unit.name}"


def _markdown(
    report: Report, command: str, described: Mapping[str, str], tables: Sequence[Sequence[Sequence[str]]]
) -> str:
    lines = [f"## {report.title}", "", f"    {command}", "", *(f"- {name}: {each}" for name, each in described.items())]
    for table in tables:
        lines += ["", *markdown_table(table)]
    lines += ["", report.caveats]
    if report.checks:
        lines += ["", *(f"- {_checked(check)}" for check in report.checks)]
    return "\n".join(lines) + "\n"


def _json(report: Report, command: str, described: Mapping[str, str]) -> dict[str, object]:
    return {
        "title": report.title,
        "command": command,
        "described": dict(described),
        "checks": [{"what": check.what, "holds": check.holds, "found": check.found} for check in report.checks],
        "comparisons": [
            {
                "work": comparison.work,
                "baseline": comparison.baseline.name,
                "ratio": comparison.ratio,
                "ratio_quartiles": comparison.ratio_quartiles,
                "target_ratio": comparison.target_ratio,
                "unit": "s" if comparison.unit is MS else "bytes",
                "ours": comparison.ours.rounds,
                "baseline_measured": comparison.baseline.rounds,
            }
            for comparison in report.comparisons
        ],
        "figures": [{"what": each.what, "value": each.value, "target": each.target} for each in report.figures],
        "growth": [
            {"work": each.work, "of": each.of, "points": {size: series.rounds for size, series in each.points.items()}}
            for each in report.growth
        ],
    }
