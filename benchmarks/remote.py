"""``reserve_budget`` over stdio with a remote authority, beside a tool of the bare SDK that posts the same.

The authority answers at once, from a process of its own (``instant_authority.py``). One bare tool posts through a
socket, without any client library; another through httpx, which the Cycles client is made of: what is beyond that one
is ours.
"""

from benchmarks.harness import Comparison, Growth, Report, Run, Series, Times, measure_rounds, run
from benchmarks.hosting import bare_server, do_nothing, our_server, remote_settings, reserve
from benchmarks.instant_authority import instant_authority
from mcp import Client

OURS = "reserve_budget, remote authority"
BARE, HTTPX = "bare tool and a POST through a socket", "bare tool and a POST through httpx"
BLOCKS, QUICK_BLOCKS, CALLS = 40, 8, 50


async def measure(given: Run) -> Report:
    """Call both servers in alternating blocks, then ours for ever longer."""
    with instant_authority() as base_url:
        server = our_server(given.directory / "data", **remote_settings(base_url))
        async with (
            Client(bare_server(base_url)) as bare_client,
            Client(bare_server(base_url, "httpx")) as httpx_client,
            Client(server) as client,
        ):

            async def bare() -> Times:
                return {BARE: [(await do_nothing(bare_client)).seconds for _ in range(CALLS)]}

            async def through_httpx() -> Times:
                return {HTTPX: [(await do_nothing(httpx_client)).seconds for _ in range(CALLS)]}

            async def ours() -> Times:
                return {OURS: [(await reserve(client)).seconds for _ in range(CALLS)]}

            series = await measure_rounds(
                (bare, ours, through_httpx),
                rounds=QUICK_BLOCKS if given.is_quick else BLOCKS,
                warm_up_rounds=2,
                limit_seconds=40,
            )
            in_a_row = {size: await _in_a_row(client, size) for size in given.sizes(20)}
    return Report(
        title="Calls over stdio with a remote authority, beside a bare tool that posts the same",
        comparisons=(
            Comparison(work=OURS, ours=series[OURS], baseline=series[BARE], target_ratio=1.30),
            Comparison(work=OURS, ours=series[OURS], baseline=series[HTTPX]),
            Comparison(work=HTTPX, ours=series[HTTPX], baseline=series[BARE]),
        ),
        growth=(Growth(work="reserve_budget", of="calls in a row", points=in_a_row),),
        facts={},
    )


async def _in_a_row(client: Client, count: int) -> Series:
    return Series(name="in a row", rounds=(tuple([(await reserve(client)).seconds for _ in range(count)]),))


if __name__ == "__main__":
    run("benchmarks.remote", measure, __doc__)
