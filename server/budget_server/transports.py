"""How the server's process lives and ends on each transport."""

import logging
import os
import signal
import sys
import threading

import anyio

from budget_server.app import BudgetServer, create_server
from budget_server.services import Services
from budget_server.settings import Settings

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.5
"""How long an ending process settles what runs; hosts kill it two seconds after they asked."""


def serve_stdio(settings: Settings) -> int:
    """Serve one host on standard input and output until it leaves or a signal comes; returns the exit code.

    Raises:
        ConfigurationError: a setting is wrong; nothing was served.
    """
    services = Services(settings)
    server = create_server(services)
    return anyio.run(_serve_stdio, server, services)


async def _serve_stdio(server: BudgetServer, services: Services) -> int:
    exit_code = 0
    async with anyio.create_task_group() as tasks:

        async def end_on_signal() -> None:
            nonlocal exit_code
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for received in signals:
                    exit_code = 128 + received
                    # The thread that reads standard input cannot be interrupted: once all is settled, leave without it.
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(end_on_signal)
        try:
            await server.run_stdio_async()
        finally:
            with anyio.CancelScope(shield=True):
                await _close(services)
            if exit_code:
                _leave_soon(exit_code)
        tasks.cancel_scope.cancel()
    return exit_code


async def _close(services: Services) -> None:
    with anyio.move_on_after(SETTLE_SECONDS) as scope:
        await services.aclose()
    if scope.cancelled_caught:
        logger.warning(
            "Not everything was settled within %s s; what was in flight is charged at its bound", SETTLE_SECONDS
        )


def _leave_soon(exit_code: int) -> None:
    sys.stderr.flush()
    timer = threading.Timer(0.2, os._exit, (exit_code,))
    timer.daemon = True
    timer.start()
