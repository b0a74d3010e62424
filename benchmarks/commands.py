"""CPU time of commands that need no MCP, beside the same commands of an earlier revision, in turns.

    python -m benchmarks.commands --against REVISION

The revision is checked out beside this checkout and runs on the same interpreter and packages.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import machine, markdown_table

ROOT = Path(__file__).parents[1]

COMMANDS = (
    "--version",
    "--help",
    "budget show",
    "prices",
    "check",
    "doctor",
    "token list",
    "delegations list",
    "authority key list",
    "install claude-code --print",
)

TARGET_RATIO = 0.35


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.commands", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--against", required=True, metavar="REVISION", help="a revision of this repository")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows: list[tuple[str, ...]] = [("command", "now, s", "then, s", "ratio", "target")]
    with tempfile.TemporaryDirectory(prefix="cycles-budget-bench-") as made, _revision(arguments.against, made) as then:
        for command in COMMANDS:
            words = command.split()
            taken = [
                (_cpu_seconds(ROOT, words, Path(made) / "now"), _cpu_seconds(then, words, Path(made) / "then"))
                for _ in range(arguments.rounds + 1)
            ][1:]  # the first round writes byte code
            now, before = (statistics.median(side) for side in zip(*taken, strict=True))
            rows.append((command, f"{now:.3f}", f"{before:.3f}", f"{now / before:.2f}", f"≤ {TARGET_RATIO}"))
    about = machine()
    print(f"Medians of {arguments.rounds} rounds on {about['machine']}, {about['python']}, {about['date']}.\n")
    print("\n".join(markdown_table(rows)))


@contextmanager
def _revision(name: str, directory: str) -> Iterator[Path]:
    """Check a revision out for as long as it is measured."""
    place = Path(directory) / "revision"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), name], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def _cpu_seconds(checkout: Path, arguments: Sequence[str], data: Path) -> float:
    """Run a command from a checkout and return the user and system time that it took."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(data),
        "PYTHONPATH": f"{checkout / 'server'}{os.pathsep}{checkout / 'tools'}",
        "BUDGET_DATA_DIR": str(data),
        "BUDGET_USD": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "budget_server", *arguments], env=environment, capture_output=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
