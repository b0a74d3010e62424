"""Where Node.js and the packages of ``package-lock.json`` are."""

import json
import shutil
import subprocess
from pathlib import Path

OLDEST = 22
"""The suites and the Inspector need this major version of Node."""


class NodeMissingError(Exception):
    """There is no Node here that is new enough; the message is one sentence."""


class Node:
    """An installation of the locked packages.

    Args:
        directory: where ``npm ci`` was run.

    Raises:
        NodeMissingError: neither the locked Node nor that of this machine can be used.
    """

    def __init__(self, directory: Path) -> None:
        self._modules = directory / "node_modules"
        self._binary = self._find()

    def command(self, package: str, program: str) -> list[str]:
        """Give the beginning of a command line: Node, and a program of a package.

        Args:
            package: its name in ``package.json``.
            program: the name that the package gives its program.
        """
        root = self._modules / package
        return [self._binary, str(root / self._manifest(package)["bin"][program])]

    def version(self, package: str) -> str:
        """Give the version of a package that is installed."""
        return str(self._manifest(package)["version"])

    def _manifest(self, package: str) -> dict[str, dict[str, str]]:
        manifest: dict[str, dict[str, str]] = json.loads((self._modules / package / "package.json").read_bytes())
        return manifest

    def _find(self) -> str:
        locked = sorted(str(path) for path in self._modules.glob("node-*/bin/node"))  # npm installs this platform's
        for binary in [*locked, shutil.which("node")]:
            if binary is not None and _major(binary) >= OLDEST:
                return binary
        raise NodeMissingError(
            f"Node.js {OLDEST} is not locked for this platform, nor is it on the PATH: install it, and try again."
        )


def _major(binary: str) -> int:
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(shown.removeprefix("v").partition(".")[0])
