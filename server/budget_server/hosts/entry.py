"""Our entry among a host's servers: the command that starts this program, its recognition, and its display."""

import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budget_server.hosts.json_edit import Keys, replace_strings
from budget_server.hosts.registry import Host

PROGRAM = "cycles-budget-mcp"
HIDDEN = "(hidden)"
HIDDEN_NEW = "(hidden, new)"

Entry = dict[str, Any]

_SECRET_NAME = re.compile(r"key|token|secret|passw|auth|credential|cookie|headers", re.IGNORECASE)
_MODULE = "budget_server"
_SHOWN_OF_OTHERS = ("command", "type")


def program() -> tuple[str, list[str]]:
    """Return the absolute command, with its arguments, that starts this installation.

    Hosts on a desktop start with a bare ``PATH``. A path is not resolved: the link that pipx and uv make outlives their
    updates.
    """
    running = Path(sys.argv[0]).absolute()
    beside = (Path(folder) / f"{PROGRAM}{suffix}" for suffix in ("", ".exe") for folder in _script_folders())
    for script in (running, *beside):
        if script.stem == PROGRAM and script.is_file():
            return str(script), []
    return str(Path(sys.executable).absolute()), ["-m", _MODULE]


def _script_folders() -> tuple[str, str]:
    return str(Path(sys.executable).absolute().parent), sysconfig.get_path("scripts")


def is_ours(entry: object) -> bool:
    """Return whether an entry starts this program, from any installation."""
    if not isinstance(entry, dict):
        return False
    words = [entry.get("command"), *(entry["args"] if isinstance(entry.get("args"), list) else ())]
    names = {re.split(r"[/\\]", word)[-1].removesuffix(".exe") for word in words if isinstance(word, str)}
    return bool(names & {PROGRAM, _MODULE})


def renewed(entry: Mapping[str, Any] | None, host: Host, environment: Mapping[str, str]) -> Entry:
    """Return our new entry: a person's additions to it stay, and the given variables replace the old ones."""
    command, arguments = program()
    before = dict(entry or {})
    kept = before["env"] if isinstance(before.get("env"), dict) else {}
    return {**host.entry_fields, **before, "command": command, "args": arguments, "env": {**kept, **environment}}


def is_secret(name: str) -> bool:
    """Return whether a variable's value is secret."""
    return bool(_SECRET_NAME.search(name))


def hidden(entry: Entry) -> Entry:
    """Return a copy of an entry without its secrets."""
    shown = {name: HIDDEN if is_secret(name) and value else value for name, value in entry["env"].items()}
    return {**entry, "env": shown}


def showable(text: str, ours: Keys, new_secrets: frozenset[str] = frozenset()) -> str:
    """Return a host's file for display: of other servers only commands and types, of ours no secret."""

    def change(keys: Keys, value: str) -> str | None:
        name = keys[-1]
        if keys[: len(ours)] == ours:
            if not (value and is_secret(name)):
                return None
            return HIDDEN_NEW if name in new_secrets else HIDDEN
        is_server_word = len(keys) == len(ours) + 1 and keys[: len(ours) - 1] == ours[:-1] and name in _SHOWN_OF_OTHERS
        return None if is_server_word else HIDDEN

    return replace_strings(text, change)
