"""The findings of a check."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "problem"]
"""``warning`` is worth knowing; ``problem`` will not work."""


class Finding(NamedTuple):
    """One line: the state of a thing, and what to do."""

    level: Level
    text: str


def ok(text: str) -> Finding:
    """Build a finding that all is well."""
    return Finding("ok", text)


def warning(text: str) -> Finding:
    """Build a finding that a person should know."""
    return Finding("warning", text)


def problem(text: str) -> Finding:
    """Build a finding of something that will not work, with what to do."""
    return Finding("problem", text)
