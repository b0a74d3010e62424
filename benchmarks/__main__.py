"""All benchmarks, one after the other, each in a process of its own; and a table of what they found."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import figure_text, machine, markdown_table, target_text, write_section

ROWS = (
    "start",
    "calls",
    "remote",
    "embedded_reserve",
    "processes",
    "http_face",
    "turn",
    "parallel",
    "memory",
    "past",
    "resume",
)


def main() -> None:
    """Run them; the exit code says that all their checks hold, never how fast they were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="rough figures, in minutes")
    parser.add_argument("--json", type=Path, metavar="DIR", help="also write every single measurement, a file for each")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write this Markdown page")
    arguments = parser.parse_args()
    found: list[tuple[str, ...]] = [("work", "against", "ratio (quartiles)", "target")]
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cycles-budget-bench-") as made:
        directory = arguments.json or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        for row in arguments.rows or ROWS:
            results = directory / f"{row}.json"
            command = [sys.executable, "-m", f"benchmarks.{row}", "--json", str(results)]
            command += ["--quick"] * arguments.quick
            command += ["--markdown", str(arguments.markdown)] if arguments.markdown else []
            print(f"== {row}", flush=True)
            if subprocess.run(command, check=False).returncode != 0:
                failed.append(row)
            if results.exists():
                found += _summary(json.loads(results.read_text(encoding="utf-8")))
    lines = markdown_table(found)
    print("\n".join(lines))
    if arguments.markdown and not arguments.rows:
        about = machine()
        told = (
            f"Of one run on {about['machine']}, {about['python']}, {about['date']}; how each was measured stands below."
        )
        title = "All of it"
        section = "\n".join([f"## {title}", "", "    make bench", "", told, "", *lines, ""])
        write_section(arguments.markdown, title, section, is_first=True)
    if failed:
        raise SystemExit(f"These failed: {', '.join(failed)}.")


def _summary(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for each in result["comparisons"]:
        low, high = each["ratio_quartiles"]
        ratio = f"{each['ratio']:.2f} ({low:.2f}-{high:.2f})"
        yield each["work"], each["baseline"], ratio, target_text(each["target_ratio"])
    for figure in result["figures"]:
        yield figure["what"], "", figure_text(figure["value"]), figure["target"]


if __name__ == "__main__":
    main()
