"""Names of the files and folders in a data directory, and paths as people write them."""

import os
import re
from pathlib import Path

VARIABLE = re.compile(r"\$\{[^{}]*\}|\$[A-Za-z_]\w*")
"""A variable in shell syntax."""

LEDGER_FILE = "ledger.sqlite3"
"""The embedded authority's ledger."""

JOURNAL_DIRECTORY = "commit-journal"
"""The client library's journal of commits that a Cycles server has not answered."""


def absolute_path(text: str) -> Path:
    """Read a path whose ``~`` and variables the host has not expanded: hosts start servers without a shell.

    Raises:
        ValueError: a variable in it is not set, or it depends on the directory that a server is started in.
    """
    expanded = os.path.expanduser(os.path.expandvars(text.strip()))  # noqa: PTH111 - Path raises if there is no home
    left = VARIABLE.search(expanded)
    if left is not None:
        raise ValueError(f"must be written out: it has {left.group()}, which is not set for this server")
    if not Path(expanded).is_absolute():
        raise ValueError(
            "must be an absolute path: hosts start this server in any directory, so a relative one would mean "
            "another place for each of them"
        )
    return Path(expanded)
