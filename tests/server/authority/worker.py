"""A process of its own over a shared ledger file, as every host starts one. Run by ``test_processes.py``."""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from budget_server.authority.ledger import Ledger
from budget_server.authority.requests import CommitRequest, ReleaseRequest, ReserveRequest, parse
from budget_server.authority.store import LedgerStore

TENANT = {"tenant": "acme", "agent": "bot"}


def intent(amount: int, key: str) -> dict[str, Any]:
    """Build a body of reserve."""
    return {
        "idempotency_key": key,
        "subject": TENANT,
        "action": {"kind": "llm.completion", "name": "claude"},
        "estimate": {"unit": "TOKENS", "amount": amount},
        "ttl_ms": 3_600_000,
    }


def say(text: str) -> None:
    """Write a line at once."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def try_many(path: Path, name: str, tries: int) -> None:
    """Reserve 1 many times through the client, ten at once; say how often each status came."""
    from runcycles import CyclesConfig

    from budget_server.authority.client import EmbeddedCyclesClient
    from budget_server.database.writer import Writer

    statuses: list[int] = []

    async def caller(client: EmbeddedCyclesClient, number: int) -> None:
        for attempt in range(tries // 10):
            response = await client.create_reservation(intent(1, f"{name}-{number}-{attempt}"))
            statuses.append(response.status)

    async def main() -> None:
        config = CyclesConfig(base_url="embedded://test", api_key="local", tenant="acme", journal_enabled=False)
        client = EmbeddedCyclesClient(Writer(LedgerStore(path)), config)
        async with client:
            await asyncio.gather(*(caller(client, number) for number in range(10)))

    say("ready")
    sys.stdin.readline()
    asyncio.run(main())
    say(" ".join(map(str, statuses)))


def stall(path: Path) -> None:
    """Stop in the middle of a transaction, as a process does whose lid is closed."""
    store = LedgerStore(path)

    def stop(ledger: Ledger) -> None:
        ledger.db.execute("UPDATE budgets SET remaining = remaining - 1, spent = spent + 1")
        say("holding")
        os.kill(os.getpid(), signal.SIGSTOP)

    store.run(stop)
    store.close()
    say("done")


def race(path: Path, name: str, reservation_id: str) -> None:
    """Commit one reservation at a moment that the parent chooses; say what the answer was."""
    store = LedgerStore(path)
    request = parse(CommitRequest, {"idempotency_key": name, "actual": {"unit": "TOKENS", "amount": 7}})
    say("ready")
    sys.stdin.readline()
    try:
        say(str(store.run(lambda ledger: ledger.commit("acme", reservation_id, request)).status))
    except Exception as exc:
        say(f"{getattr(exc, 'status', exc)}")
    store.close()


def look(path: Path, before_ms: int, now_ms: int) -> None:
    """Open a ledger at one moment, and look at it at another when the parent says so."""
    moments = [before_ms]
    store = LedgerStore(path, clock=lambda: moments[-1])
    moments.append(now_ms)
    say("ready")
    sys.stdin.readline()
    store.run(lambda ledger: ledger.now_ms)
    store.close()
    say("done")


def die_opening(path: Path, steps: int) -> None:
    """Open a ledger, and be killed after so many steps of SQLite's machine, if it takes that many."""
    left = steps

    def step() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    apsw.connection_hooks.append(lambda db: db.set_progress_handler(step, 1))
    LedgerStore(path).close()


def be_killed(path: Path, points: int, seed: int, seconds: float) -> None:
    """Fork a process that works until it is killed, over and over; pass on what it had acknowledged."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    deadline = time.monotonic() + seconds
    for point in range(points):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            work(path, point, rng.randrange(2**32), writer)
        os.close(writer)
        wanted, delay_seconds = rng.randrange(12), rng.random() * 0.004
        text = b""
        while text.count(b"\n") < wanted:
            text += os.read(reader, 65_536)
        time.sleep(delay_seconds)  # anywhere within the next operations
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while chunk := os.read(reader, 65_536):
            text += chunk
        os.close(reader)
        rng.random()
        os.write(sys.stdout.fileno(), text)
        say(f"killed {point}")
        if time.monotonic() > deadline:
            break


def work(path: Path, point: int, seed: int, to: int) -> None:
    """Reserve, commit and release without end; acknowledge each operation on a pipe after its answer."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    store = LedgerStore(path)
    number = 0
    while True:
        number += 1
        key = f"{point}-{number}"
        reserve = parse(ReserveRequest, intent(5, key))
        reservation_id = store.run(lambda ledger, r=reserve: ledger.reserve("acme", r)).body["reservation_id"]  # type: ignore[misc]
        os.write(to, f"ACTIVE {reservation_id} {key}\n".encode())
        choice = rng.randrange(3)
        if choice == 1:
            commit = parse(CommitRequest, {"idempotency_key": key, "actual": {"unit": "TOKENS", "amount": 3}})
            store.run(lambda ledger, r=commit, rid=reservation_id: ledger.commit("acme", rid, r))  # type: ignore[misc]
            os.write(to, f"COMMITTED {reservation_id} {key}\n".encode())
        elif choice == 2:
            release = parse(ReleaseRequest, {"idempotency_key": key})
            store.run(lambda ledger, r=release, rid=reservation_id: ledger.release("acme", rid, r))  # type: ignore[misc]
            os.write(to, f"RELEASED {reservation_id} {key}\n".encode())


if __name__ == "__main__":
    command, ledger, *arguments = sys.argv[1:]
    if command == "try_many":
        try_many(Path(ledger), arguments[0], int(arguments[1]))
    elif command == "stall":
        stall(Path(ledger))
    elif command == "look":
        look(Path(ledger), int(arguments[0]), int(arguments[1]))
    elif command == "die_opening":
        die_opening(Path(ledger), int(arguments[0]))
    elif command == "race":
        race(Path(ledger), *arguments)
    elif command == "be_killed":
        be_killed(Path(ledger), int(arguments[0]), int(arguments[1]), float(arguments[2]))
