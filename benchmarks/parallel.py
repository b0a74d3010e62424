"""As many delegations at once as a process runs, beside as many loops of the bare SDK."""

from benchmarks.conversing import CAVEATS, Endpoint, Manner, added, by_length, compare, open_bare, open_services
from benchmarks.harness import CAVEATS as RATIO_CAVEATS
from benchmarks.harness import Growth, Report, Run, run

from budget_tools.delegation.runner import MAX_RUNNING

TARGET_RATIO = 1.15
ROUNDS, QUICK_ROUNDS, TOOL_CALLS = 12, 3, 5
CROWD = Manner(work=f"a turn, {MAX_RUNNING} delegations at once", tool_calls=TOOL_CALLS, at_once=MAX_RUNNING)


async def measure(given: Run) -> Report:
    """Hold all conversations at once, on both sides in turns, then ever longer ones on ours."""
    with Endpoint.started() as endpoint:
        async with (
            open_bare(endpoint.base_url) as loop,
            open_services(endpoint.base_url, given.directory) as services,
        ):
            rounds = QUICK_ROUNDS if given.is_quick else ROUNDS
            comparison = await compare(loop, services, CROWD, TARGET_RATIO, rounds)
            checked = await endpoint.seen_now()
            lengths = await by_length(services, given.sizes(1), at_once=MAX_RUNNING)
    return Report(
        title="Delegations at once, beside loops of the bare SDK",
        comparisons=(comparison,),
        growth=(Growth(work=CROWD.work, of="turns of each", points=lengths),),
        facts={"added to a turn": added((comparison,))},
        caveats=f"{RATIO_CAVEATS} The time of all is shared out among all their turns. {CAVEATS}",
        checks=checked.checks(),
    )


if __name__ == "__main__":
    run("benchmarks.parallel", measure, __doc__)
