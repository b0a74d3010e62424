"""Hold this server to the official conformance suite, and use it with the MCP Inspector.

::

    make conformance
    make conformance MARKDOWN=docs/conformance.md

Ends with 1 if a scenario fails that may not, if one passes that is said to fail, if the Inspector sees anything else
than it should, or if docs/conformance.md says otherwise.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from conformance.inspector import PACKAGE, Inspection, inspect
from conformance.node import Node, NodeMissingError
from conformance.suites import Result, run_suites
from hosting import BUDGET_USD, Environment

Outcome = TypeVar("Outcome", Result, Inspection)

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"

INTRODUCTION = """\
# Conformance

`make conformance MARKDOWN=docs/conformance.md` wrote this. It runs the official suite
(`@modelcontextprotocol/conformance`) against this server over streamable HTTP: with the tools, resources and prompts
added that the suite asks for, and everything else as users have it. Then it uses the server with the Inspector's
command line. A check that only warns counts as failed, and nothing may be logged as an error. `make conformance` fails
when any of this is no longer so.
"""


def markdown(results: Sequence[Result], inspections: Sequence[Inspection], inspector: str) -> str:
    """Write down what was seen: nothing in it depends on the day or the machine."""
    return "\n".join([INTRODUCTION, *_suites(results), *_failures(results), *_inspector(inspections, inspector)])


def _suites(results: Sequence[Result]) -> Iterator[str]:
    yield "| protocol | suite | selection | scenarios passed | failed | checks passed |"
    yield "|---|---|---|---|---|---|"
    for each in results:
        yield (
            f"| {each.suite.protocol} | {each.version} | `{' '.join(each.suite.selection)}` "
            f"| {len(each.passed)} of {len(each.checks)} | {len(each.failed)} | {each.passed_checks} |"
        )
    yield ""


def _failures(results: Sequence[Result]) -> Iterator[str]:
    yield "## What is not passed, and why\n"
    yield "| protocol | scenario | why |"
    yield "|---|---|---|"
    reasons = {(each.suite.protocol, name): reason for each in results for name, reason in each.reasons.items()}
    for (protocol, scenario), reason in reasons.items():
        yield f"| {protocol} | {scenario} | {reason} |"
    yield ""
    skipped = sorted({name for each in results for name in each.skipped})
    if skipped:
        yield f"The suite itself skips {', '.join(skipped)}.\n"


def _inspector(inspections: Sequence[Inspection], version: str) -> Iterator[str]:
    yield f"## The Inspector, {version}\n"
    yield "| transport | generation | commands | problems |"
    yield "|---|---|---|---|"
    for each in inspections:
        yield f"| {each.transport} | {each.era} | {each.commands} | {len(each.problems)} |"
    yield ""
    yield "Tools are listed (`--strict`: no schema is wrong), called, and refused with exit code 5; balances are read."
    yield ""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="Hold this server to the MCP conformance suite and the Inspector.")
    parser.add_argument("directory", type=Path, help="where `npm ci` was run")
    parser.add_argument("--markdown", type=Path, help="write the table of results into this file")
    arguments = parser.parse_args()
    try:
        node = Node(arguments.directory)
    except NodeMissingError as exc:
        print(exc)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        results = list(_shown(run_suites(node, _settings(directory, "suites"))))
        inspections = list(_shown(inspect(node, _settings(directory, "inspector"))))
    is_sound = not any(each.problems for each in results) and not any(each.problems for each in inspections)
    written = markdown(results, inspections, node.version(PACKAGE))
    if arguments.markdown is not None:
        arguments.markdown.write_text(written, encoding="utf-8")
    elif is_sound and (not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != written):
        print("docs/conformance.md says otherwise; make conformance MARKDOWN=docs/conformance.md writes it anew.")
        is_sound = False
    return 0 if is_sound else 1


def _shown(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    for each in outcomes:
        print(each.sentence, *each.problems, sep="\n  ", flush=True)
        yield each


def _settings(directory: str, name: str) -> Environment:
    own = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return {**own, "BUDGET_DATA_DIR": str(Path(directory, name)), "BUDGET_USD": BUDGET_USD}


if __name__ == "__main__":
    sys.exit(main())
