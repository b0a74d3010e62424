"""A nursery of server processes: everything is imported once, and each server is a fork of that.

A start then costs milliseconds instead of a second, and yet each is a process of its own that runs the real server on
its own standard input and output, and that a real SIGKILL ends. An order may name one *point* in the life of a turn, at
which that process kills itself or waits until it is told to go on, or one *place* in its machine (``places.py``).

Run by ``nursery.py`` with one end of a socket as standard input; orders and answers are JSON, descriptors ride along.
"""

import asyncio
import functools
import gc
import importlib
import inspect
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from faults.places import PLACES, die_at

STDIO = 3
REACHED, GO_ON = 3, 4
"""Which of an order's descriptors tell of a point."""

Hook = Callable[[], Awaitable[None]]


def main() -> None:
    """Serve orders until nobody is left to give any."""
    channel = socket.socket(fileno=os.dup(0))
    _warm_up()
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 16, 8)
        if not message:
            return
        order = json.loads(message)
        answer: dict[str, int | None]
        if "wait" in order:
            answer = {"exit_code": _wait_for(order["wait"], order["seconds"])}
        else:
            answer = {"pid": os.fork()}
            if not answer["pid"]:
                channel.close()
                _live(order, fds)
            for fd in fds:
                os.close(fd)
        channel.sendall(json.dumps(answer).encode())


def _wait_for(pid: int, seconds: float) -> int | None:
    """Wait for the end of a server, with all its locks let go; ``None`` where it does not come in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _warm_up() -> None:
    """Import and build what every server does, by a delegation of its own, and leave nothing of it running."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ |= {"BUDGET_DATA_DIR": directory, "BUDGET_USD": "1", "ANTHROPIC_API_KEY": "rehearsal"}
        asyncio.run(_rehearse())
    assert threading.active_count() == 1, "a fork has only the thread that forks"
    # Pages that no collector touches are shared by all forks.
    gc.collect()
    gc.freeze()


async def _rehearse() -> None:
    import httpx
    from mcp import Client

    import budget_server.transports.lifecycle  # noqa: F401 - only imported
    from budget_server.config.settings import read_settings
    from budget_server.demo.scripted_claude import ScriptedClaude, Turn
    from budget_server.mcp_server.server import create_server
    from budget_server.services import Services

    async with httpx.AsyncClient(trust_env=False, verify=False):  # noqa: S501 - it is only built
        pass
    async with ScriptedClaude([Turn(text="Warm.")]) as claude:
        os.environ["ANTHROPIC_BASE_URL"] = claude.base_url
        services = Services(read_settings())
        try:
            for mode in ("auto", "legacy"):
                async with Client(create_server(services), mode=mode) as client:
                    result = await client.call_tool("delegate_to_claude", {"task": "Warm up.", "idempotency_key": "k"})
                    assert not result.is_error, result
        finally:
            await services.aclose()


def _live(order: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Be the server that was ordered, and end with it."""
    exit_code = 70
    try:
        for number, fd in enumerate(fds[:STDIO]):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.clear()
        os.environ.update(order["environment"])
        for place, value in order["constants"].items():
            module, _, name = place.partition(":")
            *owners, name = name.split(".")
            setattr(functools.reduce(getattr, owners, importlib.import_module(module)), name, value)
        _be_impatient(order["patience_seconds"])
        if order["clock"]:
            _tell_time_by(order["clock"])
        if order["point"] in PLACES:
            die_at(order["point"], order["nth"])
        elif order["point"]:
            _stop_at(order["point"], order["nth"], _killing() if order["kills"] else _pausing(fds[REACHED], fds[GO_ON]))
        sys.argv = ["cycles-budget-mcp"]
        from budget_server.__main__ import main as serve

        serve()
    except SystemExit as exc:
        exit_code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _be_impatient(seconds: float) -> None:
    """Wait less long for a ledger that another process holds, and for an authority that does not answer.

    The connection's own time-out stays: on the loopback a connection is made or refused at once.
    """
    from runcycles import CyclesConfig

    from budget_server.authority.store import LedgerStore

    assert LedgerStore.__init__.__kwdefaults__ is not None
    LedgerStore.__init__.__kwdefaults__["lock_deadline_seconds"] = seconds
    # The defaults stand in the signature that dataclasses made of them.
    optional = list(inspect.signature(CyclesConfig).parameters.values())[2:]
    brief = {"read_timeout": seconds, "retry_initial_delay": seconds / 10}
    CyclesConfig.__init__.__defaults__ = tuple(brief.get(each.name, each.default) for each in optional)


def _tell_time_by(path: str) -> None:
    """Have the wall clock go as a file says: so far ahead of the right time, or frozen at one moment.

    What measures how long something takes (``time.monotonic``) goes on as ever, as it does where a machine's clock is
    set. Everything here and in the client library asks ``time`` itself for the time.
    """
    right_ns = time.time_ns

    def time_ns() -> int:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib asks for the time, too
            said = json.load(file)
        return int(said["frozen_at_ns"] or right_ns() + said["ahead_ns"])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _killing() -> Hook:
    async def kill() -> None:
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _pausing(reached: int, go_on: int) -> Hook:
    async def pause() -> None:
        os.write(reached, b"!")
        await asyncio.get_running_loop().run_in_executor(None, os.read, go_on, 1)

    return pause


# -- points -----------------------------------------------------------------------------------------------------------


def _stop_at(point: str, nth: int, hook: Hook) -> None:
    """Have a hook run at the n-th time that a point is reached."""
    from runcycles import AsyncCyclesClient

    from budget_server.authority.client import EmbeddedCyclesClient
    from budget_tools.delegation.log import DelegationLog
    from budget_tools.delegation.prompt_bound import PromptBounder
    from budget_tools.delegation.runner import DelegationRunner
    from budget_tools.spends.reserver import Lease, Reserver

    left = nth

    async def counted() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            await hook()

    def always(*_: Any, **__: Any) -> bool:
        return True

    def is_spend(_: Any, spend: Any, **__: Any) -> bool:
        return not spend.is_hold

    def is_hold(_: Any, spend: Any, **__: Any) -> bool:
        return bool(spend.is_hold)

    def is_charge(*_: Any, charged: int | None = None, **__: Any) -> bool:
        return charged is not None

    def is_from_the_journal(_: Any, event: Any) -> bool:
        return isinstance(event, dict) and "recovered_reservation_id" in event.get("metadata", {})

    clients = (AsyncCyclesClient, EmbeddedCyclesClient)
    before, after = True, False
    points: dict[str, tuple[Sequence[type], str, bool, Callable[..., bool]]] = {
        "before its input is counted": ((PromptBounder,), "bound", before, always),
        "before the hold is written down": ((DelegationLog,), "mark_in_flight", before, is_hold),
        "before the orphans are looked for": ((DelegationRunner,), "keep_settling_orphans", before, always),
        "before the reserve": ((Reserver,), "spend", before, always),
        "after the reserve": ((Lease,), "mark_in_flight", before, always),
        "after the spend is written down": ((DelegationLog,), "mark_in_flight", after, is_spend),
        "after the departure": ((Lease,), "mark_in_flight", after, always),
        "after the answer": ((DelegationLog,), "note_turn", before, is_charge),
        "after the answer is written down": ((DelegationLog,), "note_turn", after, is_charge),
        "before the commit leaves": (clients, "commit_reservation", before, always),
        "before the commit's answer": (clients, "commit_reservation", after, always),
        "before the event leaves": (clients, "create_event", before, is_from_the_journal),
        "before the next write": ((Reserver,), "spend", after, always),
        "before the release": ((Reserver,), "release", before, always),
        "after the release": ((Reserver,), "release", after, always),
    }
    classes, method, comes_before, matches = points[point]
    for each in classes:
        _wrap(each, method, counted, comes_before=comes_before, matches=matches)


def _wrap(owner: type, method: str, hook: Hook, *, comes_before: bool, matches: Callable[..., bool]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    async def wrapper(self: Any, *arguments: Any, **named: Any) -> Any:
        concerns = matches(self, *arguments, **named)
        if concerns and comes_before:
            await hook()
        result = await original(self, *arguments, **named)
        if concerns and not comes_before:
            await hook()
        return result

    setattr(owner, method, wrapper)


if __name__ == "__main__":
    main()
