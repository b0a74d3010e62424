"""Runaway stops: for a delegation without progress, or with growing costs, long before its money ends.

The budget bounds what a delegation may cost; this module judges whether it is still worth it. The sub-agent is warned
first, so that it can change course; only if it does not, its next turn is its last, in which it reports what it has.
Nothing here has a clock, does I/O or ends anything: the loop feeds a watch and asks it before each turn.

    kind           a warning                                            a landing
    wall_clock     most of the time is over                             all of it is
    repetition     the same calls with the same results, three times    five times
    cost_growth    a turn far dearer than those before it               three in a row, each at least twice the last

A call that differs in its name, its arguments or its result is progress: polling a build that advances is fine, polling
one that does not is not. A result that contains the time of day therefore never repeats; the wall clock stops that one.
"""

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from budget_tools.core.money import format_usd

Kind = Literal["wall_clock", "repetition", "cost_growth"]

WARN_AT_PERCENT_OF_TIME = 80
"""A fifth of the time is left then: enough for a turn or two, which seldom take a minute each."""

WARN_AT_REPEATS = 3
"""Twice may be chance or a second look; a third call could not be expected to show anything new."""
LAND_AT_REPEATS = 5
"""The warning is part of the next turn's prompt, so in two more rounds it was read and ignored."""
MAX_CYCLE_TURNS = 3
"""Loops that models fall into are short (read, edit, test, read, …); a longer one looks like work, and time ends it."""

DEAR_FACTOR = 6
"""How many times the usual cost makes a turn out of proportion.

A prompt grows by about as much each turn, so a turn costs at most twice the median of those before it, and at most four
times if every turn adds more than the last. Six leaves room for chance beside both.
"""
MIN_TURNS_BEFORE = 3
"""Fewer turns have no usual cost: the first alone pays for writing the cache."""
DEAR_TURNS_TO_LAND = 3
"""One dear turn is a long answer or a cache that ran out; three may still be three files that it had to write."""
GROWTH_FACTOR_TO_LAND = 2
"""Factor by which each of those turns must pass the one before: doubling is running away, a high level is not."""
MIN_DEAR_MICROCENTS = 1_000_000
"""One cent: below it, a warning costs about as much as it could save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A notice for a sub-agent before its next turn."""

    kind: Kind
    must_land: bool
    """Whether its next turn is its last; otherwise it is only a warning."""
    notice: str
    """One or two sentences to the sub-agent."""
    reason: str = ""
    """The reason of a landing, as the middle of a sentence that is fit for any reader."""


_Calls = tuple[bytes, ...]


class RunawayWatch:
    """Watch over one delegation.

    Args:
        max_seconds: how long it may take, tools included; ``math.inf`` for no limit.
    """

    def __init__(self, max_seconds: float) -> None:
        assert max_seconds > 0
        self._max_seconds = max_seconds
        self._charges: list[int] = []
        self._turns: deque[dict[bytes, str]] = deque(maxlen=MAX_CYCLE_TURNS * LAND_AT_REPEATS)
        """The names of each turn's calls, by fingerprint; turns without calls are left out."""
        self._opens_turn = True
        self._warned: set[object] = set()
        self._landing: Verdict | None = None

    def note_turn(self, charged_microcents: int) -> None:
        """Record that a turn was answered, before its tool calls.

        Args:
            charged_microcents: what it cost, exactly; a turn that was charged at its bound says nothing of its cost and
                counts as 0, and 0 is left out of all comparison.
        """
        assert charged_microcents >= 0
        self._opens_turn = True
        if charged_microcents:
            self._charges.append(charged_microcents)

    def note_tool_call(
        self, name: str, arguments: Mapping[str, Any], result: Sequence[Mapping[str, Any]], is_error: bool
    ) -> None:
        """Record a tool call of the turn that was noted last.

        Calls of one turn could not know each other's results: the same one twice is not a repetition, and their order
        does not matter.

        Args:
            name: the tool.
            arguments: what it was called with.
            result: the content blocks that it answered.
            is_error: whether they contain an error.
        """
        if self._opens_turn:
            self._turns.append({})
            self._opens_turn = False
        self._turns[-1][_fingerprint([name, arguments, result, is_error])] = name

    def verdict(self, elapsed_seconds: float) -> Verdict | None:
        """Return what the sub-agent must be told before its next turn, if anything.

        A landing precedes every warning and stays: a second call returns the same. Each warning is given once; if
        several are due, the others wait for the next turn and are given if they still hold.

        Args:
            elapsed_seconds: since the delegation began.
        """
        if self._landing is not None:
            return self._landing
        found = [each for each in (self._time(elapsed_seconds), self._repetition(), self._cost_growth()) if each]
        self._landing = next((verdict for _, verdict in found if verdict.must_land), None)
        if self._landing is not None:
            return self._landing
        for cause, verdict in found:
            if cause not in self._warned:
                self._warned.add(cause)
                return verdict
        return None

    # Each of these finds a verdict and its cause, whether it was told before or not.

    def _time(self, elapsed_seconds: float) -> tuple[object, Verdict] | None:
        if elapsed_seconds * 100 < self._max_seconds * WARN_AT_PERCENT_OF_TIME:
            return None
        if elapsed_seconds >= self._max_seconds:
            reason = f"the {_seconds(self._max_seconds)} for this task are over"
            notice = f"T{reason[1:]}. {_LAST_TURN}"
            return "wall_clock", Verdict(kind="wall_clock", must_land=True, notice=notice, reason=reason)
        notice = (
            f"{_seconds(elapsed_seconds)} of the {_seconds(self._max_seconds)} for this task have passed. "
            "Begin nothing long, and come to your answer."
        )
        return "wall_clock", Verdict(kind="wall_clock", must_land=False, notice=notice)

    def _repetition(self) -> tuple[object, Verdict] | None:
        turns = [tuple(sorted(calls)) for calls in self._turns]
        # Of lengths that repeat equally often, the first and shortest describes the loop best.
        length = max(range(1, MAX_CYCLE_TURNS + 1), key=lambda length: _repeats(turns, length))
        repeats = _repeats(turns, length)
        if repeats < WARN_AT_REPEATS:
            return None
        # A loop is the same loop wherever in its round it is looked at.
        cause = frozenset(turns[-length:])
        calls = [name for calls in list(self._turns)[-length:] for name in calls.values()]
        what = f"the same {'calls' if len(calls) > 1 else 'call'} ({_listed(list(dict.fromkeys(calls)))})"
        told = f"You have made {what} with the same result {repeats} times in a row."
        if repeats >= LAND_AT_REPEATS:
            reason = f"{what} had the same result {repeats} times in a row"
            return cause, Verdict(kind="repetition", must_land=True, notice=f"{told} {_LAST_TURN}", reason=reason)
        advice = f"Wait or do something else: at {LAND_AT_REPEATS} times you will be asked for your final answer."
        return cause, Verdict(kind="repetition", must_land=False, notice=f"{told} {advice}")

    def _cost_growth(self) -> tuple[object, Verdict] | None:
        count = len(self._charges)
        if not self._is_dear(count - 1):
            return None
        usual, last = _usual(self._charges[:-1]), self._charges[-1]
        figures = f"${format_usd(last)}, {last // usual} times the usual ${format_usd(usual)}"
        row = range(count - DEAR_TURNS_TO_LAND, count)
        is_running_away = all(self._is_dear(index) for index in row) and all(
            self._charges[index] >= GROWTH_FACTOR_TO_LAND * self._charges[index - 1] for index in row[1:]
        )
        if is_running_away:
            grew = f"last {DEAR_TURNS_TO_LAND} turns cost far more than the one before, and the last {figures}"
            notice = f"Each of your {grew}. {_LAST_TURN}"
            return "cost_growth", Verdict(
                kind="cost_growth", must_land=True, notice=notice, reason=f"each of the {grew}"
            )
        notice = f"Your last turn cost {figures}. Ask for less at a time, and answer shorter."
        return "cost_growth", Verdict(kind="cost_growth", must_land=False, notice=notice)

    def _is_dear(self, index: int) -> bool:
        if index < MIN_TURNS_BEFORE:
            return False
        charge = self._charges[index]
        return charge >= MIN_DEAR_MICROCENTS and charge > DEAR_FACTOR * _usual(self._charges[:index])


_LAST_TURN = "This is your last turn: give your final answer from what you have, and say what is missing."


def _fingerprint(value: object) -> bytes:
    # ASCII, so that half of a surrogate pair, which tools can return and UTF-8 cannot hold, does no harm.
    written = json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(written.encode()).digest()


def _repeats(turns: Sequence[_Calls], length: int) -> int:
    """Count how often the last turns, this many, occur one after another at the end."""
    rounds = [turns[end - length : end] for end in range(len(turns), length - 1, -length)]
    return len(list(takewhile(lambda each: each == rounds[0], rounds)))


def _usual(charges: Sequence[int]) -> int:
    """Return the median, of an even number the upper one of the middle: no float touches an amount."""
    return sorted(charges)[len(charges) // 2]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} seconds" if seconds >= 10 else f"{seconds:.1f} seconds"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_CYCLE_TURNS]) + (" and others" if len(names) > MAX_CYCLE_TURNS else "")
