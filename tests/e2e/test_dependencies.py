"""What is installed with the program, and what the wheel holds: no more, and nothing older, than is said."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = {canonicalize_name(each.name): each for each in map(Requirement, PYPROJECT["project"]["dependencies"])}
LOCKS = sorted(ROOT.glob("requirements*.lock"))

FLOORS = {
    "apsw": "3.51.3",
    "mcp": "2.2.0",
}
"""Versions before which money or tokens were not safe, and why.

apsw: SQLite before 3.51.3 can lose a commit when several processes share a WAL file. mcp: before 2.2.0 an output
schema could have the server fetch what it refers to (CVE-2026-116686).
"""

PIN = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)(?: ; .+?)?(?: \\)?\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def pins_of(lock: Path) -> dict[str, set[Version]]:
    """The versions that a lock pins; a name has several where platforms or interpreters differ."""
    pins: dict[str, set[Version]] = {}
    for name, pinned, _ in PIN.findall(lock.read_text(encoding="utf-8")):
        pins.setdefault(canonicalize_name(name), set()).add(Version(pinned))
    return pins


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_what_is_installed_is_what_the_project_asks_for(name: NormalizedName) -> None:
    """pyproject.toml, dependencies: the tests would otherwise prove something about other versions."""
    assert DEPENDENCIES[name].specifier.contains(version(name))


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_no_installation_gets_a_version_that_is_not_safe(name: NormalizedName, floor: str) -> None:
    """Every range and every lock stays above it."""
    lower = [Version(each.version) for each in DEPENDENCIES[name].specifier if each.operator == ">="]

    assert max(lower) >= Version(floor)
    for lock in LOCKS:
        assert all(pinned >= Version(floor) for pinned in pins_of(lock).get(name, ()))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_everything_by_its_hash_and_names_no_index(lock: Path) -> None:
    """Who installs by it gets these bytes, from wherever they fetch them."""
    text = lock.read_text(encoding="utf-8")

    assert pins_of(lock)
    assert PIN.sub("", text).count("==") == 0
    assert not re.search(r"://|^-|--(extra-)?index-url|--find-links", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_agrees_with_the_project(name: str) -> None:
    """``make lock`` was run after the last change of a dependency, and nothing else was added by hand."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = pins_of(ROOT / name)
    asked_for = {
        canonicalize_name(pin.split("==")[0])
        for pin in re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)
        if "cycles-budget-mcp (pyproject.toml)\n" in pin
    }

    assert asked_for == DEPENDENCIES.keys()
    for each, requirement in DEPENDENCIES.items():
        assert all(requirement.specifier.contains(pinned) for pinned in pins[each])


def test_the_two_locks_of_the_program_agree() -> None:
    """What is tested is what is installed."""
    runtime, dev = pins_of(ROOT / "requirements.lock"), pins_of(ROOT / "requirements-dev.lock")

    assert runtime.items() <= dev.items()


def test_every_dependency_has_its_reason_and_no_other_is_listed() -> None:
    """CONTRIBUTING, dependencies: each is there for something that we would otherwise write ourselves, or it goes."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Dependencies, and why each")[2]
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE)
    extras = {extra for each in DEPENDENCIES.values() for extra in each.extras}
    listed = [name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)]

    assert extras == {"crypto"}
    assert sorted(listed) == sorted([*DEPENDENCIES, "cryptography"])
    assert all(len(reason) > 10 for _, reason in rows)


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    """A wrong path in the build's settings makes half a wheel in silence; and no test or secret may travel along."""
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *command, str(ROOT)], check=True, timeout=120
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}

    sources = {
        path.relative_to(root).as_posix()
        for root in (ROOT / "server", ROOT / "tools")
        for path in root.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    about = f"cycles_budget_mcp-{PYPROJECT['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in sources} == {"budget_server", "budget_tools"}
    assert found == sources | {
        f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
