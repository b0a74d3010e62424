"""What a check found."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "problem"]
"""``warning`` is what a person should know; ``problem`` is what will not work."""


class Finding(NamedTuple):
    """One line: how a thing stands, and what to do."""

    level: Level
    text: str


def ok(text: str) -> Finding:
    """Say that all is well with a thing."""
    return Finding("ok", text)


def warning(text: str) -> Finding:
    """Say what a person should know."""
    return Finding("warning", text)


def problem(text: str) -> Finding:
    """Say what will not work, and what to do."""
    return Finding("problem", text)
