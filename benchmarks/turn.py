"""A budgeted turn at zero provider latency, beside the bare SDK's streaming turn."""

from importlib.metadata import version

from benchmarks.conversing import CAVEATS, Endpoint, Manner, added, by_length, compare, open_bare, open_services
from benchmarks.harness import CAVEATS as RATIO_CAVEATS
from benchmarks.harness import Growth, Report, Run, run

TARGET_RATIO = 1.15
ROUNDS, QUICK_ROUNDS = 30, 5
MANNERS = (
    Manner(work="turn with a tool call, of 21", tool_calls=20),
    Manner(work="single turn", tool_calls=0, times=20),
)


async def measure(given: Run) -> Report:
    """Hold conversations on both sides in turns, then ever longer ones on ours."""
    with Endpoint.started() as endpoint:
        async with (
            open_bare(endpoint.base_url) as loop,
            open_services(endpoint.base_url, given.directory) as services,
        ):
            rounds = QUICK_ROUNDS if given.is_quick else ROUNDS
            comparisons = [await compare(loop, services, each, TARGET_RATIO, rounds) for each in MANNERS]
            checked = await endpoint.seen_now()
            lengths = await by_length(services, given.sizes(2))
    return Report(
        title="A budgeted turn, beside the bare SDK's",
        comparisons=comparisons,
        growth=(Growth(work="a turn with a tool call", of="turns of the conversation", points=lengths),),
        facts={
            "clients": ", ".join(f"{name} {version(name)}" for name in ("anthropic", "runcycles")),
            "added to a turn": added(comparisons),
            "requests": checked.sizes(),
        },
        caveats=f"{RATIO_CAVEATS} {CAVEATS}",
        checks=checked.checks(),
    )


if __name__ == "__main__":
    run("benchmarks.turn", measure, __doc__)
