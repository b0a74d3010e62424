"""The official conformance suite, run against this server with the suite's own fixtures in it.

Every scenario must pass, except those that a kept list names with the reason; one that is on the list and passes is
wrong as well. A check that only warns counts as failed.
"""

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.node import Node
from hosting import Environment
from networking import Served, serving

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 300.0
FAILED = ("FAILURE", "WARNING")

_ENTRY = re.compile(r"  - (\S+)  # (\S.*)")
_DIRECTORY = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A version of the suite, for one version of the protocol."""

    protocol: str
    package: str
    selection: tuple[str, ...]
    """What it runs, as arguments of its command line."""

    @property
    def expected_failures(self) -> Path:
        """The kept list, in the suite's own format."""
        return HERE / f"expected-failures.{self.protocol}.yml"


SUITES = (
    Suite(protocol="2025-11-25", package="conformance-2025-11-25", selection=("--suite", "all")),
    Suite(protocol="2025-11-25", package="conformance-2026-07-28", selection=("--requirements", "2025-11-25")),
    Suite(protocol="2026-07-28", package="conformance-2026-07-28", selection=("--requirements", "2026-07-28")),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a suite."""

    suite: Suite
    version: str
    """The suite's own."""
    checks: Mapping[str, Counter[str]]
    """By scenario: how many checks ended how, in the suite's words."""
    reasons: Mapping[str, str]
    """Scenarios that may fail, and why."""
    problems: tuple[str, ...]
    """Sentences; none where all is as it should be."""

    @property
    def passed(self) -> list[str]:
        """The scenarios that passed."""
        return [name for name, checks in self.checks.items() if checks["SUCCESS"] and not _is_failed(checks)]

    @property
    def failed(self) -> list[str]:
        """The scenarios that did not."""
        return [name for name, checks in self.checks.items() if _is_failed(checks)]

    @property
    def skipped(self) -> list[str]:
        """The scenarios in which the suite checked nothing."""
        return [name for name in self.checks if name not in self.passed and name not in self.failed]

    @property
    def passed_checks(self) -> int:
        """How many single checks passed, in all scenarios."""
        return sum(checks["SUCCESS"] for checks in self.checks.values())

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return (
            f"MCP {self.suite.protocol}, conformance {self.version}: {len(self.passed)} of {len(self.checks)} "
            f"scenarios pass ({self.passed_checks} checks), {len(self.failed)} fail, "
            f"{len(self.skipped)} skipped by the suite."
        )


def run_suites(node: Node, environment: Environment) -> Iterator[Result]:
    """Run each suite against a server of its own.

    Args:
        node: where the suites are installed.
        environment: the server's settings.
    """
    environment = {**environment, "PYTHONPATH": str(HERE.parent)}
    for suite in SUITES:
        with serving(environment, "streamable-http", program="conformance.overlay") as served:
            yield _run(suite, node, served)


def _run(suite: Suite, node: Node, served: Served) -> Result:
    reasons = dict(_entries(suite.expected_failures))
    with tempfile.TemporaryDirectory() as directory:
        command = [*node.command(suite.package, "conformance"), "server", *suite.selection]
        # The suite tells a server on this machine by the name, and then checks that others are refused.
        command += ["--url", served.url.replace("127.0.0.1", "localhost")]
        command += ["--expected-failures", str(suite.expected_failures), "--output-dir", directory]
        ended = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        found = dict(_checks(Path(directory)))
    _, logged = served.end()
    checks = {name: Counter(check["status"] for check in each) for name, each in found.items()}
    failed = {name for name, each in checks.items() if _is_failed(each)}
    problems = [
        f"{name} fails: {check['description']}. {check.get('errorMessage', '')}"
        for name in failed - reasons.keys()
        for check in found[name]
        if check["status"] in FAILED
    ]
    problems += [
        f"{name} does not fail: remove it from {suite.expected_failures.name}." for name in reasons.keys() - failed
    ]
    if ended.returncode and not problems:
        problems.append(f"The suite ended with {ended.returncode}: {ended.stdout[-2_000:]}")
    if not checks:
        problems.append("The suite ran no scenario.")
    problems += [f"The server logged: {line}" for line in logged.splitlines() if " ERROR " in line]
    return Result(
        suite=suite,
        version=node.version(suite.package),
        checks=checks,
        reasons=reasons,
        problems=tuple(sorted(problems)),
    )


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Read a kept list; the suite reads it as YAML, in which the reasons are comments."""
    heading, *lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert heading == "server:", path
    for line in lines:
        entry = _ENTRY.fullmatch(line)
        assert entry, f"{path.name} has an entry without its reason: {line}"
        yield entry[1], entry[2]


def _checks(directory: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Read what the suite has written down: by scenario, its checks."""
    for path in sorted(directory.iterdir()):
        named = _DIRECTORY.fullmatch(path.name)
        assert named, path.name
        yield named[1], json.loads((path / "checks.json").read_bytes())


def _is_failed(checks: Counter[str]) -> bool:
    return any(checks[status] for status in FAILED)
