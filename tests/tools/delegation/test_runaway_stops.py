"""Runaway stops as a host and a sub-agent see them: warned first, then one last answer, and resumable."""

from typing import Any

import pytest

from budget_server.demo.scripted_claude import ToolCall, Turn
from budget_tools.delegation import loop
from budget_tools.delegation.runaway import LAND_AT_REPEATS, WARN_AT_REPEATS
from tools.delegation.harness import OpenBench, last_words, structured

pytestmark = pytest.mark.anyio

NOTE = ToolCall("shed__note")
"""A call whose result never changes."""


class Clock:
    """A clock for the loop, which a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


async def test_the_same_call_again_and_again_is_warned_of_and_then_landed(bench: OpenBench) -> None:
    """A loop that gets nowhere is told so, long before its money ends; the caller hears why, in words meant for it."""
    b = await bench(lambda _, number: Turn(text=f"Poll {number}.", tool_calls=(NOTE,)))

    result = await b.delegate(tools=["shed__note"], max_turns=50)

    *ordinary, landing = b.claude.message_requests
    warned = [request for request in ordinary if "same result" in last_words(request)]
    assert (result["status"], result["text"], b.sent) == ("failed", f"Poll {b.sent}.", LAND_AT_REPEATS + 1)
    assert warned == [b.claude.message_requests[WARN_AT_REPEATS]]
    assert "(shed__note) with the same result 3 times in a row" in last_words(warned[0])
    assert "tool_choice" not in warned[0].body
    assert landing.body["tool_choice"] == {"type": "none"}
    assert last_words(landing).count("last turn") == 1
    assert "the same call (shed__note) had the same result 5 times in a row" in last_words(landing)
    assert result["hint"].startswith("It was made to stop: the same call (shed__note) had the same result 5 times")
    assert "You" not in result["hint"]
    assert "Resume it" in result["hint"]
    assert result["resumable"]


async def test_a_warning_that_is_heeded_changes_nothing_else(bench: OpenBench) -> None:
    """The sub-agent may change course: then it goes on as though nothing had been."""
    b = await bench([*[Turn(tool_calls=(NOTE,))] * WARN_AT_REPEATS, Turn(text="Done.")])

    result = await b.delegate(tools=["shed__note"])

    assert (result["status"], result["text"], result["hint"]) == ("completed", "Done.", "")
    assert "same result" in last_words(b.claude.message_requests[-1])


async def test_when_its_time_is_over_it_gives_its_last_answer(bench: OpenBench, clock: Clock) -> None:
    """BUDGET_DELEGATION_MINUTES: warned when most of it is over, landed when all of it is, and resumable."""
    passes = {1: 10.0, 2: 96.0 - 10.0, 3: 60.0}

    def script(_body: dict[str, Any], number: int) -> Turn:
        clock.seconds += passes.get(number, 0.0)
        return Turn(text=f"Look {number}.", tool_calls=(ToolCall("shed__count"),))

    b = await bench(script, budget_delegation_minutes=2)

    result = await b.delegate(tools=["shed__count"])

    told = [last_words(request) for request in b.claude.message_requests]
    assert (result["status"], result["text"], b.sent) == ("failed", "Look 4.", 4)
    assert told[1] == ""
    assert told[2].startswith("96 seconds of the 120 seconds for this task have passed.")
    assert told[3].startswith("This is your last turn: the 120 seconds for this task are over. You have no tools")
    assert result["hint"].startswith("It was made to stop: the 120 seconds for this task are over.")
    assert result["resumable"]


async def test_a_resumed_delegation_has_its_time_anew(bench: OpenBench, clock: Clock) -> None:
    """The setting is for one stretch: whoever resumes has looked at it."""

    def script(_body: dict[str, Any], number: int) -> Turn:
        clock.seconds += 61.0 if number == 1 else 1.0
        return Turn(text=f"Look {number}.", tool_calls=(ToolCall("shed__count"),) if number < 4 else ())

    b = await bench(script, budget_delegation_minutes=1)
    stopped = await b.delegate(tools=["shed__count"])

    resumed = structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"]))

    assert (stopped["status"], stopped["text"]) == ("failed", "Look 2.")
    assert (resumed["status"], resumed["text"], b.sent) == ("completed", "Look 4.", 4)


async def test_without_tools_a_long_answer_is_never_stopped_for_its_time(bench: OpenBench, clock: Clock) -> None:
    """There is no turn after it that could be the last."""

    def script(_body: dict[str, Any], _number: int) -> Turn:
        clock.seconds += 3_600.0
        return Turn(text="Done.")

    b = await bench(script, budget_delegation_minutes=1)

    assert (await b.delegate())["status"] == "completed"
