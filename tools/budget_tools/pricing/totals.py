"""Running totals of usage: the repeated reports of one answer, put together.

Every report is a total of everything so far. So the highest value of each count is believed: a later report that is
silent, null or 0 does not lower it. A count that falls to a value other than 0 contradicts an earlier report; it is
noted, and the highest still counts as surely used. A count of tokens that is not a whole number is kept, for the reader
of the usage to refuse.
"""

from collections.abc import Mapping
from typing import Any, Literal

from budget_tools.pricing.usage import TokenUsage

Place = Literal["start", "middle", "end"]
"""Where in an answer a report was: at its beginning, before more of the content came, or after the last of it."""

_PLAIN = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

_MAX_DEPTH = 10


class RunningTotals:
    """The totals of one answer."""

    def __init__(self) -> None:
        self.counts: dict[str, Any] | None = None
        """The counts that are believed, in the shape of the reports; ``None`` if nothing was reported."""
        self.problem = ""
        """Why a report cannot be read; ``""`` if all can."""
        self.fallen = ""
        """Which total fell, and how; ``""`` if none did."""
        self.has_final_output = False
        """Whether an output was reported after the last of the content."""
        self._placeholder = 0
        self._greatest = dict.fromkeys(_PLAIN, 0)

    def add(self, report: object, place: Place) -> None:
        """Add the next report; the output of one at the start is a placeholder, not a total."""
        if report is None or report == {}:
            return
        if not isinstance(report, Mapping):
            self.problem = self.problem or "The usage must be an object with token counts."
            return
        said = {str(name): value for name, value in report.items()}
        if place == "start":
            self._placeholder = max(self._placeholder, _number(said.pop("output_tokens", None)))
        for name in _PLAIN:
            self._greatest[name] = max(self._greatest[name], _number(said.get(name)))
        self.counts = self._merged(self.counts or {}, said, 0)
        if place == "end" and said.get("output_tokens") is not None:
            self.has_final_output = True

    @property
    def has_no_prompt(self) -> bool:
        """Whether the prompt was counted, and the count is 0."""
        return (self.counts or {}).get("input_tokens") == 0 and not any(
            count for name, count in self._greatest.items() if name != "output_tokens"
        )

    def least_usage(self) -> TokenUsage:
        """Return what was surely used, by the highest plain counts; a value that is not a count is taken as 0.

        Raises:
            UsageError: a count is too large to be true.
        """
        read, written, cache_read, cache_written = (self._greatest[name] for name in _PLAIN)
        return TokenUsage(
            input_tokens=read,
            output_tokens=max(written, self._placeholder),
            cache_read_input_tokens=cache_read,
            cache_creation_5m_input_tokens=cache_written,
        )

    def _merged(self, known: Mapping[str, Any], said: Mapping[str, Any], depth: int) -> dict[str, Any]:
        merged = dict(known)
        for name, value in said.items():
            before = known.get(name)
            if value is None or value in ("", []):
                merged.setdefault(name, value)
            elif type(value) is int and type(before) is int:
                if value and value < before:
                    self.fallen = self.fallen or f"{name} fell from {before} to {value}"
                # A value that cannot be a count is not replaced by a later one that can.
                merged[name] = min(before, value) if min(before, value) < 0 else max(before, value)
            elif isinstance(value, list) and isinstance(before, list) and len(value) < len(before):
                self.fallen = self.fallen or f"{name} fell from {len(before)} entries to {len(value)}"
            elif isinstance(value, Mapping) and isinstance(before, Mapping) and depth < _MAX_DEPTH:
                merged[name] = self._merged(before, value, depth + 1)
            elif not _is_odd(name, before):
                merged[name] = value
        return merged


def _number(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _is_odd(name: str, value: object) -> bool:
    """Return whether a field that should be a count has a value that is not."""
    return name.endswith("_tokens") and value is not None and value != "" and type(value) is not int
