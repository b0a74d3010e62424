"""What ``make conformance`` installs."""

import json
from pathlib import Path

LOCK = Path(__file__).with_name("package-lock.json")


def test_every_locked_package_has_its_hash_and_names_no_registry() -> None:
    """CONTRIBUTING, Dependencies: what is installed is what was looked at, from wherever it is had."""
    packages = json.loads(LOCK.read_bytes())["packages"]
    locked = {name: package for name, package in packages.items() if name}

    assert locked
    assert [name for name, package in locked.items() if not package.get("integrity")] == []
    assert [name for name, package in locked.items() if "resolved" in package] == []
