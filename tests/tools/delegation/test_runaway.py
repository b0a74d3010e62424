"""Runaway stops: told first, landed only when that does not help, and never for ordinary work."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.delegation.runaway import LAND_AT_REPEATS, RunawayWatch, Verdict

CENT = 1_000_000
Call = tuple[str, dict[str, Any], str]


def call(name: str, result: str = "the same as ever", **arguments: Any) -> Call:
    """Make a tool call and what it answered."""
    return name, arguments, result


def after_each(watch: RunawayWatch, turns: Iterable[Sequence[Call]]) -> list[Verdict | None]:
    """Take turns with these calls at no cost, and ask after each of them."""
    verdicts = []
    for calls in turns:
        watch.note_turn(0)
        for name, arguments, result in calls:
            watch.note_tool_call(name, arguments, [{"type": "text", "text": result}], is_error=False)
        verdicts.append(watch.verdict(0))
    return verdicts


def after_charges(watch: RunawayWatch, charges: Iterable[int]) -> list[Verdict | None]:
    """Take turns at these charges without calls, and ask after each of them."""
    verdicts = []
    for charge in charges:
        watch.note_turn(charge)
        verdicts.append(watch.verdict(0))
    return verdicts


def seen(verdicts: Iterable[Verdict | None]) -> dict[int, tuple[str, bool]]:
    """Say after which turns (1, 2, …) there was a verdict, of what kind, and whether it was a landing."""
    return {number: (each.kind, each.must_land) for number, each in enumerate(verdicts, start=1) if each}


def last(verdicts: Sequence[Verdict | None]) -> Verdict:
    """Give the verdict after the last turn, which there is."""
    assert verdicts[-1] is not None
    return verdicts[-1]


# -- wall clock --


def test_the_clock_warns_once_at_four_fifths_and_lands_at_the_end() -> None:
    """Not a moment before, and with the figures."""
    watch = RunawayWatch(600)

    assert watch.verdict(479.9) is None
    warning = watch.verdict(480)
    assert warning is not None
    assert (warning.kind, warning.must_land) == ("wall_clock", False)
    assert "480 seconds of the 600 seconds" in warning.notice
    assert watch.verdict(599.9) is None
    landing = watch.verdict(600)
    assert landing is not None
    assert (landing.kind, landing.must_land) == ("wall_clock", True)
    assert "600 seconds" in landing.notice
    assert "last turn" in landing.notice


def test_time_without_an_end_never_runs_out() -> None:
    """``math.inf`` leaves the clock out of it."""
    assert RunawayWatch(math.inf).verdict(1e12) is None


def test_a_short_time_is_told_in_tenths_of_a_second() -> None:
    """A notice that says "0 of the 0 seconds" would help nobody."""
    verdict = RunawayWatch(0.5).verdict(0.4)

    assert verdict is not None
    assert "0.4 seconds of the 0.5 seconds" in verdict.notice


# -- repetition --


def test_the_same_call_with_the_same_result_is_told_at_the_third_time_and_landed_at_the_fifth() -> None:
    """The warning comes once, names the tool and says what else to do."""
    verdicts = after_each(RunawayWatch(math.inf), [[call("poll", build=7)]] * 5)

    assert seen(verdicts) == {3: ("repetition", False), 5: ("repetition", True)}
    assert verdicts[2] is not None
    assert "(poll) with the same result 3 times" in verdicts[2].notice
    assert "Wait or do something else" in verdicts[2].notice
    assert "5 times" in last(verdicts).notice
    assert "last turn" in last(verdicts).notice


def test_a_poll_whose_result_moves_on_is_progress() -> None:
    """A build that reaches its next step is not a loop."""
    polls = [[call("poll", result=f"{percent} %")] for percent in range(40)]

    assert seen(after_each(RunawayWatch(math.inf), polls)) == {}


def test_a_call_with_other_arguments_is_progress_even_if_its_result_is_not() -> None:
    """Searching for one thing after another and finding nothing is work."""
    searches = [[call("search", result="nothing", page=page)] for page in range(40)]

    assert seen(after_each(RunawayWatch(math.inf), searches)) == {}


def test_the_order_of_arguments_makes_no_difference_and_their_values_do() -> None:
    """Arguments are compared as JSON objects."""
    turns = [[("t", {"a": 1, "b": {"c": 2, "d": 3}}, "x")], [("t", {"b": {"d": 3, "c": 2}, "a": 1}, "x")]] * 2
    other = [*turns[:2], [("t", {"a": 1, "b": {"c": 2, "d": 4}}, "x")]]

    assert seen(after_each(RunawayWatch(math.inf), turns)) == {3: ("repetition", False)}
    assert seen(after_each(RunawayWatch(math.inf), other)) == {}


def test_an_error_and_an_answer_of_the_same_words_are_two_results() -> None:
    """A tool that has begun to fail, or has stopped failing, has changed."""
    watch = RunawayWatch(math.inf)
    for is_error in (False, False, True):
        watch.note_turn(0)
        watch.note_tool_call("poll", {}, [{"type": "text", "text": "No."}], is_error=is_error)

    assert watch.verdict(0) is None


@pytest.mark.parametrize("length", [2, 3])
def test_going_round_in_a_circle_of_calls_is_repetition(length: int) -> None:
    """Three rounds are told once, whatever call they are looked at from; five are landed."""
    circle = [[call(f"step_{number}")] for number in range(length)]

    verdicts = after_each(RunawayWatch(math.inf), circle * 5)

    assert seen(verdicts) == {3 * length: ("repetition", False), 5 * length: ("repetition", True)}
    assert all(f"step_{number}" in last(verdicts).notice for number in range(length))


def test_a_circle_in_which_one_result_changes_is_progress() -> None:
    """Edit, test, edit, test is how work is done, as long as the tests say something new."""
    turns = [
        turn for number in range(20) for turn in ([call("edit")], [call("test", result=f"{20 - number} failures")])
    ]

    assert seen(after_each(RunawayWatch(math.inf), turns)) == {}


def test_calls_side_by_side_in_one_turn_are_one_round_in_any_order() -> None:
    """They could not know each other's results: five of one kind at once are no repetition."""
    at_once = [[call("poll")] * 5]
    again_and_again = [[call("a"), call("b"), call("c"), call("d")], [call("d"), call("c"), call("b"), call("a")]] * 3

    assert seen(after_each(RunawayWatch(math.inf), at_once)) == {}
    verdicts = after_each(RunawayWatch(math.inf), again_and_again[:5])
    assert seen(verdicts) == {3: ("repetition", False), 5: ("repetition", True)}
    assert "and others" in last(verdicts).notice


def test_a_loop_that_was_left_and_entered_anew_is_not_told_again_but_landed() -> None:
    """One warning for one cause; another loop has a warning of its own."""
    a, b = [call("a")], [call("b")]

    verdicts = after_each(RunawayWatch(math.inf), [a, a, a, b, b, b, a, a, a, a, a])

    assert seen(verdicts) == {3: ("repetition", False), 6: ("repetition", False), 11: ("repetition", True)}


def test_what_tools_return_may_be_anything_that_json_can_carry() -> None:
    """Half of a surrogate pair has no UTF-8, and models do write them."""
    verdicts = after_each(RunawayWatch(math.inf), [[call("\ud800", result="\udfff", key="\ud800")]] * 3)

    assert seen(verdicts) == {3: ("repetition", False)}


calls = st.builds(call, st.sampled_from("abc"), st.sampled_from("xyz"), n=st.integers(0, 2))
turns_of_calls = st.lists(st.lists(calls, max_size=3), max_size=25)


@given(turns_of_calls)
def test_turns_that_are_all_different_never_trip(turns: list[list[Call]]) -> None:
    """A sequence without any repetition has no verdict, whatever is called."""
    different = [[*each, call("count", n=number)] for number, each in enumerate(turns)]

    assert seen(after_each(RunawayWatch(math.inf), different)) == {}


@given(turns_of_calls, st.lists(st.lists(calls, min_size=1, max_size=3), min_size=1, max_size=3))
def test_repetition_lands_at_its_threshold_whatever_went_before(
    before: list[list[Call]], circle: list[list[Call]]
) -> None:
    """At the latest with the last call of the fifth round, and not without a warning."""
    watch = RunawayWatch(math.inf)

    verdicts = after_each(watch, [*before, *(circle * LAND_AT_REPEATS)])

    assert last(verdicts).must_land
    assert any(each and not each.must_land for each in verdicts)


# -- cost growth --


def test_a_turn_far_dearer_than_those_before_is_told_once() -> None:
    """With its cost, the usual cost and how many times that is."""
    charges = [CENT, CENT, CENT, 6 * CENT, 8 * CENT, CENT, CENT, 9 * CENT]

    verdicts = after_charges(RunawayWatch(math.inf), charges)

    assert seen(verdicts) == {5: ("cost_growth", False)}
    assert verdicts[4] is not None
    assert "$0.08, 8 times the usual $0.01" in verdicts[4].notice


def test_cost_that_doubles_from_one_dear_turn_to_the_next_is_landed_at_the_third() -> None:
    """The first of them was the warning."""
    charges = [CENT, CENT, CENT, 8 * CENT, 16 * CENT, 32 * CENT]

    verdicts = after_charges(RunawayWatch(math.inf), charges)

    assert seen(verdicts) == {4: ("cost_growth", False), 6: ("cost_growth", True)}
    assert "$0.32" in last(verdicts).notice
    assert "last turn" in last(verdicts).notice


@pytest.mark.parametrize(
    "charges",
    [
        pytest.param([CENT] * 5 + [20 * CENT, 25 * CENT, 18 * CENT], id="reads five files, then writes three"),
        pytest.param([CENT] * 4 + [13 * CENT] * 3, id="tools outlast the cache three times in a row"),
        pytest.param([CENT] * 4 + [10 * CENT, 11 * CENT, 12 * CENT], id="a large result stays in the prompt"),
    ],
)
def test_dear_turns_that_grow_no_further_are_told_and_never_landed(charges: list[int]) -> None:
    """A landing costs the user an answer: what a big task does as well must not bring it about."""
    assert seen(after_charges(RunawayWatch(math.inf), charges)).keys() <= {6, 5}
    assert not any(each and each.must_land for each in after_charges(RunawayWatch(math.inf), charges))


def test_fewer_than_three_turns_have_no_usual_cost() -> None:
    """The first turns of a delegation may differ by anything."""
    assert seen(after_charges(RunawayWatch(math.inf), [CENT, 50 * CENT, 2_000 * CENT])) == {}


def test_turns_under_a_cent_are_never_out_of_proportion() -> None:
    """Telling so would cost as much as there is to save."""
    assert seen(after_charges(RunawayWatch(math.inf), [10, 10, 10, CENT - 1])) == {}
    assert seen(after_charges(RunawayWatch(math.inf), [10, 10, 10, CENT])) == {4: ("cost_growth", False)}


def test_turns_that_cost_nothing_are_no_measure() -> None:
    """A refusal is not billed; beside nothing, everything would be out of proportion."""
    assert seen(after_charges(RunawayWatch(math.inf), [0, 0, 0, CENT, 0, CENT, 0, CENT, CENT])) == {}


@given(
    st.integers(0, 100 * CENT),
    st.integers(0, 100 * CENT),
    st.lists(st.integers(35, 100), max_size=60),
)
def test_linear_growth_never_trips(base: int, step: int, percents: list[int]) -> None:
    """A conversation that grows by as much each turn, though chance takes up to two thirds off any of them."""
    charges = [(base + step * number) * percent // 100 for number, percent in enumerate(percents, start=1)]

    assert seen(after_charges(RunawayWatch(math.inf), charges)) == {}


@given(st.integers(1, 100 * CENT), st.integers(1, 60))
def test_growth_by_the_square_never_trips(step: int, count: int) -> None:
    """Nor does a conversation to which every turn adds more than the one before."""
    assert seen(after_charges(RunawayWatch(math.inf), [step * number**2 for number in range(1, count + 1)])) == {}


@given(st.integers(CENT, 10 * CENT), st.integers(3, 9))
def test_growth_by_a_factor_of_three_or_more_is_landed(first: int, factor: int) -> None:
    """Within eight turns, and told before."""
    verdicts = after_charges(RunawayWatch(math.inf), [first * factor**number for number in range(8)])

    assert last(verdicts).must_land
    assert next(each for each in verdicts if each).must_land is False


# -- several at once --


def test_of_several_warnings_the_most_urgent_comes_first_and_the_next_at_the_next_turn() -> None:
    """Time cannot be won back; a loop can be left."""
    watch = RunawayWatch(100)
    for charge in (CENT, CENT, CENT, 7 * CENT):
        watch.note_turn(charge)
        watch.note_tool_call("poll", {}, [], is_error=False)

    found = [watch.verdict(85) for _ in range(4)]

    assert [each and (each.kind, each.must_land) for each in found] == [
        ("wall_clock", False),
        ("repetition", False),
        ("cost_growth", False),
        None,
    ]


def test_a_landing_wins_over_a_warning_and_stays() -> None:
    """Whatever happens in the last turn, nothing takes it back or says anything else."""
    watch = RunawayWatch(100)
    after_each(watch, [[call("poll")]] * 2)
    for _ in range(3):
        watch.note_turn(0)
        watch.note_tool_call("poll", {}, [{"type": "text", "text": "the same as ever"}], is_error=False)

    landing = watch.verdict(85)

    assert landing is not None
    assert (landing.kind, landing.must_land) == ("repetition", True)
    after_each(watch, [[call("something else")]])
    assert watch.verdict(100) == landing
