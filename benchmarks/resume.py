"""Resuming a delegation: reading its conversation, and one more turn, by how much was kept of it."""

import json
import time
from uuid import uuid4

from benchmarks.conversing import Endpoint, delegate, ended, open_services
from benchmarks.harness import Comparison, Growth, Report, Run, Series, Times, measure_rounds, run

from budget_server.services import Services
from budget_tools.delegation.views import DelegationView

SHORT, LONG, QUICK_LONG = 2, 200, 20
ROUNDS, QUICK_ROUNDS = 9, 3


async def measure(given: Run) -> Report:
    """Resume a short and a long one in turns."""
    with Endpoint.started() as endpoint:
        async with open_services(endpoint.base_url, given.directory) as services:
            long_turns = QUICK_LONG if given.is_quick else LONG

            async def resumed(turns: int) -> tuple[float, int]:
                stopped = await delegate(services, turns + 1, max_turns=turns)
                kept = await _kept_bytes(services, stopped)
                return await _resume_seconds(services, stopped), kept

            async def short() -> Times:
                seconds, kept = await resumed(SHORT)
                return {_a_byte(SHORT): [seconds / kept], _whole(SHORT): [seconds]}

            async def long() -> Times:
                seconds, kept = await resumed(long_turns)
                return {_a_byte(long_turns): [seconds / kept], _whole(long_turns): [seconds]}

            rounds = QUICK_ROUNDS if given.is_quick else ROUNDS
            series = await measure_rounds((short, long), rounds=rounds, warm_up_rounds=1, limit_seconds=90)
            points = {}
            for turns in given.sizes(SHORT):
                points[turns] = Series(name="resume", rounds=(((await resumed(turns))[0],),))
    return Report(
        title="Resuming a delegation",
        comparisons=(
            Comparison(
                work=_a_byte(long_turns),
                ours=series[_a_byte(long_turns)],
                baseline=series[_a_byte(SHORT)],
                target_ratio=1.0,
            ),
            Comparison(work=_whole(long_turns), ours=series[_whole(long_turns)], baseline=series[_whole(SHORT)]),
        ),
        growth=(Growth(work="a resumed delegation", of="turns before", points=points),),
        facts={},
        caveats="From the call until the one more turn that it was given has ended: its conversation is read, counted, "
        "bounded, reserved, sent and answered, at once. Kept bytes are those of its messages as JSON. Linear is what "
        "costs no more for a byte of a long conversation than of a short one.",
    )


def _a_byte(turns: int) -> str:
    return f"resume after {turns} turns, a kept byte"


def _whole(turns: int) -> str:
    return f"resume after {turns} turns"


async def _kept_bytes(services: Services, stopped: DelegationView) -> int:
    _, messages = await services.delegations.transcript(services.subject.tenant, stopped.id)
    return len(json.dumps(messages, default=str))


async def _resume_seconds(services: Services, stopped: DelegationView) -> float:
    turns = len(stopped.turns) + 1
    begun = time.perf_counter()
    resumed = await services.delegations.resume(
        services.subject, stopped.id, uuid4().hex, max_turns=turns, budget_microcents=None
    )
    await ended(resumed, turns)
    return time.perf_counter() - begun


if __name__ == "__main__":
    run("benchmarks.resume", measure, __doc__)
