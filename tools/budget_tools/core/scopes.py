"""Scope derivation: from a subject to the paths whose budgets it draws on (Cycles v0, SCOPE DERIVATION).

A path is literal. A subject that names a workspace does not reach a budget whose path has no workspace.
"""

import re
from collections.abc import Mapping

from budget_tools.core.money import USD_MICROCENTS

LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")
"""The levels of a subject, root first: the canonical order of every path."""

LEVEL_VALUE = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
"""Characters allowed in a level. The reference server refuses all others, so that ``:`` and ``/`` stay separators."""


def derive_scopes(subject: Mapping[str, object]) -> tuple[str, ...]:
    """Return the affected scope paths, root to leaf; absent levels are skipped, values are lower-cased.

    ``{"tenant": "acme", "agent": "Bot"}`` gives ``("tenant:acme", "tenant:acme/agent:bot")``.
    """
    paths: list[str] = []
    for level in LEVELS:
        value = subject.get(level)
        if isinstance(value, str) and value:
            segment = f"{level}:{value.lower()}"
            paths.append(f"{paths[-1]}/{segment}" if paths else segment)
    return tuple(paths)


def clear_command(scope_path: str, unit: str) -> str:
    """Return the command that clears what this budget could not cover, with the options that it needs."""
    scope = "" if scope_path == "tenant:local" else f" --scope {scope_path}"
    return f"budget clear{scope}" if unit == USD_MICROCENTS else f"budget clear{scope} --unit {unit}"


def leaf(scope_path: str) -> str:
    """Return the last segment of a path, which balances show as their ``scope``."""
    return scope_path.rpartition("/")[2]
