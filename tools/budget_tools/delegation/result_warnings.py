"""What the caller of a delegation is told beside its answer: sentences, each of them once.

They are kept with the turn that follows, so that they are still there after this process; a delegation that takes no
further turn tells them as long as this process knows it.
"""

from collections.abc import Sequence

from budget_tools.delegation.records import TurnRecord


class ResultWarnings:
    """The warnings of one delegation."""

    def __init__(self) -> None:
        self._unwritten: list[str] = []

    def add(self, sentence: str) -> None:
        """Warn of something."""
        self._unwritten.append(sentence)

    @property
    def unwritten(self) -> Sequence[str]:
        """What no turn has kept yet."""
        return tuple(self._unwritten)

    def note_written(self) -> None:
        """Note that a turn has kept them."""
        self._unwritten.clear()


def warnings_of(turns: Sequence[TurnRecord], *more: str) -> Sequence[str]:
    """Return the warnings that turns have kept, and more, each once."""
    return tuple(dict.fromkeys([*(warning for turn in turns for warning in turn.warnings), *more]))
