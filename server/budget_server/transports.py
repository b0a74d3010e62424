"""How the server's process lives and ends on each transport."""

import logging
import os
import signal
import sys

import anyio

from budget_server.app import BudgetServer, chosen_tools, create_server
from budget_server.services import Services
from budget_server.settings import Settings
from budget_server.stdio import run_stdio

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.5
"""How long an ending process settles what runs; hosts kill it two seconds after they asked."""


def serve_stdio(settings: Settings) -> int:
    """Serve one host on standard input and output until it leaves; returns the exit code.

    SIGTERM and SIGINT end the process from inside, once what runs is settled, with the shell's 128 + signal.

    Raises:
        ConfigurationError: a setting is wrong; nothing was served.
    """
    tools = chosen_tools(settings.budget_tools)
    services = Services(settings)
    server = create_server(services, tools)
    return anyio.run(_serve_stdio, server, services)


async def _serve_stdio(server: BudgetServer, services: Services) -> int:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, services)
        tasks.start_soon(services.settle_orphans)
        try:
            await run_stdio(server)
        finally:
            with anyio.CancelScope(shield=True):
                await _settle(services)
        tasks.cancel_scope.cancel()
    return 0


async def _end_on_signal(services: Services) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            await _settle(services)
            sys.stderr.flush()
            # Where a thread reads standard input, it cannot be interrupted: an orderly way out would wait for ever.
            os._exit(128 + received)


async def _settle(services: Services) -> None:
    with anyio.move_on_after(SETTLE_SECONDS) as scope:
        await services.aclose()
    if scope.cancelled_caught:
        logger.warning("Not all was settled within %s s: what was in flight is charged at its bound", SETTLE_SECONDS)
