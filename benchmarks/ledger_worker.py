"""One of several processes that reserve from one budget, as one of several hosts would. Started by ``processes.py``.

It says ``ready`` once its ledger is open. For every line with a number that it then reads it tries that many
reservations and answers with one line of JSON. As the server does, it never looks for garbage among what was imported.
"""

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs as a file, from anywhere
from benchmarks.bare_ledger import BareLedger
from benchmarks.embedded import intent, new_key, open_client, timed

from budget_tools.core.ids import time_ordered_id

Try = Callable[[int], Awaitable[dict[str, object]]]


async def through_client(path: Path) -> None:
    """Try through the client, one after the other, as fast as it answers."""
    async with open_client(path) as client:

        async def try_many(tries: int) -> dict[str, object]:
            statuses: Counter[int] = Counter()
            seconds: list[float] = []
            held_seconds: list[float] = []
            for _ in range(tries):
                call = await timed(client.create_reservation(intent(new_key())))
                statuses[call.response.status] += 1
                seconds.append(call.seconds)
                held_seconds.append(call.held_seconds)
            return {"statuses": statuses, "seconds": seconds, "held_seconds": held_seconds}

        await _serve(try_many)


async def bare(path: Path) -> None:
    """Try by bare transactions, one after the other."""
    ledger = BareLedger(path)

    async def try_many(tries: int) -> dict[str, object]:
        statuses: Counter[int] = Counter()
        seconds: list[float] = []
        for _ in range(tries):
            begun = time.perf_counter()
            is_granted = ledger.reserve(time_ordered_id(), new_key())
            seconds.append(time.perf_counter() - begun)
            statuses[200 if is_granted else 409] += 1
        return {"statuses": statuses, "seconds": seconds, "held_seconds": seconds}

    await _serve(try_many)
    ledger.close()


async def _serve(try_many: Try) -> None:
    print("ready", flush=True)
    while line := sys.stdin.readline():
        print(json.dumps(await try_many(int(line))), flush=True)


if __name__ == "__main__":
    gc.freeze()
    kind, ledger_path = sys.argv[1:]
    asyncio.run({"client": through_client, "bare": bare}[kind](Path(ledger_path)))
