"""Warnings for the caller of a delegation, besides its answer: sentences, each of them once.

They are kept with the next turn, so that they outlive this process; a delegation that takes no further turn reports
them as long as this process knows it.
"""

from collections.abc import Sequence

from budget_tools.delegation.records import TurnRecord


class ResultWarnings:
    """The warnings of one delegation."""

    def __init__(self) -> None:
        self._unwritten: list[str] = []

    def add(self, sentence: str) -> None:
        """Add a warning."""
        self._unwritten.append(sentence)

    @property
    def unwritten(self) -> Sequence[str]:
        """Warnings that are not kept with a turn yet."""
        return tuple(self._unwritten)

    def note_written(self) -> None:
        """Record that a turn has kept them."""
        self._unwritten.clear()


def warnings_of(turns: Sequence[TurnRecord], *more: str) -> Sequence[str]:
    """Return the warnings that turns have kept, and more, each once."""
    return tuple(dict.fromkeys([*(warning for turn in turns for warning in turn.warnings), *more]))
