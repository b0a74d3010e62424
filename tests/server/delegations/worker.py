"""A process of its own over a shared delegations file, as every host starts one."""

import asyncio
import os
import sys
from pathlib import Path

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.delegation.store import Step
from server.delegations.making import spend, started


def say(text: str) -> None:
    """Write a line at once."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


async def own(directory: Path, *names: str) -> None:
    """Start delegations that each have a spend, a charged spend and a hold in flight, and wait to be killed."""
    store = SqliteDelegationStore(directory)
    for name in names:
        await started(store, name)
        await store.mark_in_flight(name, spend(f"{name}-spend", 5))
        await store.mark_in_flight(name, spend(f"{name}-charged", 7, metadata={"model": "claude"}))
        await store.write(name, Step(charges={f"{name}-charged": 6}, spent_microcents=6))
        await store.mark_in_flight(name, spend(f"{name}-hold", 9, is_hold=True))
    say("ready")
    sys.stdin.readline()
    await store.aclose()
    say("closed")


async def take_over(directory: Path) -> None:
    """Adopt at a moment that the parent chooses, say what was adopted, and live on until told to end."""
    store = SqliteDelegationStore(directory)
    say("ready")
    sys.stdin.readline()
    say(" ".join(orphan.delegation.delegation_id for orphan in await store.orphans()))
    sys.stdin.readline()
    await store.aclose()


async def work(directory: Path) -> None:
    """Start, spend and settle without end; acknowledge each on stdout after it is done."""
    store = SqliteDelegationStore(directory, max_running=10_000)
    number = 0
    while True:
        name = f"{os.getpid()}-{number}"
        await started(store, name)
        say(f"running {name}")
        await store.mark_in_flight(name, spend(name, 5))
        say(f"departed {name}")
        await store.write(name, Step(charges={name: 3}, spent_microcents=3))
        say(f"charged {name}")
        await store.write(name, Step(struck=[name]))
        say(f"struck {name}")
        number += 1


if __name__ == "__main__":
    command, directory, *names = sys.argv[1:]
    asyncio.run({"own": own, "adopt": take_over, "work": work}[command](Path(directory), *names))
