"""The provider's stream of events after accidents to its bytes: what is known of its usage is charged, or the bound.

The ways that somebody thought of are in ``tests/faults/test_misbehaviour.py``; here they are made at random.
"""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from faults.wire import PING, STOP, USAGE, WHOLE, Wire, WireClaude, delta, start, words
from tools.delegation.harness import Bench, open_bench

EXAMPLES_SHARE = 4
"""Each is a server, a ledger and a socket of its own: a quarter as many as elsewhere."""

EVENTS = [start(), words(), delta(), STOP, PING, words("More.", 1)]


@st.composite
def streams(draw: st.DrawFn) -> Wire:
    """An answer as it should be, after accidents to its events and its bytes, split anywhere."""
    events = draw(st.lists(st.sampled_from(EVENTS), max_size=8)) if draw(st.booleans()) else [WHOLE]
    body = bytearray(b"".join(events))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        to = draw(st.integers(at, min(len(body), at + 60)))
        match draw(st.sampled_from(["cut", "drop", "twice", "flip", "put"])):
            case "cut":
                del body[at:]
            case "drop":
                del body[at:to]
            case "twice":
                body[at:at] = body[at:to]
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case _:
                body[at:at] = draw(st.binary(min_size=1, max_size=3))
    return Wire(
        body=bytes(body),
        size=draw(st.sampled_from([1, 3, 50, 1 << 20])),
        end=draw(st.sampled_from(["close", "close", "reset"])),
        length=len(body) if draw(st.booleans()) else None,
    )


@asynccontextmanager
async def answered_by(wire: Wire) -> AsyncIterator[Bench]:
    """A bench whose Claude gives one answer, in bytes; its books are checked at the end."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_bench(Path(directory), endpoint=lambda _: WireClaude([wire])) as bench:
            yield bench


def test_whatever_becomes_of_a_stream_no_less_is_charged_than_is_known(tally: Counter[str]) -> None:
    """Design: usage that is not known for sure is charged at the bound; nothing stays held; nothing is sent twice."""

    async def delegate(wire: Wire) -> None:
        async with answered_by(wire) as bench:
            told = await bench.delegate(max_turns=1)
            (turn,) = told["turns"]
            tally[f"streams, charged by {turn['actual_source']}"] += 1
            assert bench.sent == 1
            assert told["spent"] == turn["charged"]
            assert 0 < turn["charged"]["amount"] <= turn["reserved"]["amount"]
            if turn["actual_source"] == "bound":
                assert turn["charged"] == turn["reserved"]
            elif wire.body == WHOLE:
                assert turn["output_tokens"] == USAGE["output_tokens"]

    @settings(
        max_examples=settings().max_examples // EXAMPLES_SHARE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(streams())
    def fuzz(wire: Wire) -> None:
        anyio.run(delegate, wire)

    fuzz()


@pytest.mark.parametrize("at", range(1, len(WHOLE), 97))
def test_a_stream_that_ends_early_is_never_taken_for_whole(tally: Counter[str], at: int) -> None:
    """Before its last usage has come, what an answer cost is not known."""
    tally["streams, cut"] += 1

    async def delegate() -> None:
        async with answered_by(Wire(body=WHOLE[:at])) as bench:
            (turn,) = (await bench.delegate(max_turns=1))["turns"]
            is_known = at >= len(WHOLE) - len(STOP)
            assert (turn["actual_source"], is_known) in (("bound", False), ("usage", True))

    anyio.run(delegate)
