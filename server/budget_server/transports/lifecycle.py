"""The life of the server's process on each transport.

The process's services are built before the first connection and closed after the last: no connection owns them.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskStatus

from budget_server.config.settings import Settings
from budget_server.mcp_server.server import BudgetServer, chosen_tools, create_server
from budget_server.services import Services
from budget_server.transports.stdio import run_stdio

if TYPE_CHECKING:
    import socket

    import uvicorn

    from budget_server.auth.tokens import Tokens
    from budget_server.database.asynchronous import AsyncFile
    from budget_server.database.file import DurableFile
    from budget_server.transports.http import ShutdownMiddleware, Transport

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.5
"""Time for an ending process to settle running work; hosts kill it two seconds after asking it to end."""

FAREWELL_SECONDS = 0.4
"""Time for the last answers to leave after that."""

ENDING_SECONDS = 1.95
"""Latest end of a process that serves over HTTP, in seconds after the signal."""


def serve_stdio(settings: Settings) -> int:
    """Serve one host on standard input and output until it leaves; return the exit code.

    SIGTERM and SIGINT end the process from inside, once running work is settled, with the shell's 128 + signal.

    Raises:
        ConfigurationError: a setting is wrong; nothing was served.
    """
    tools = chosen_tools(settings.budget_tools)
    services = Services(settings)
    server = create_server(services, tools)
    gc.freeze()  # collecting garbage among everything that was imported would delay calls now and then
    return anyio.run(_serve_stdio, server, services)


def serve_http(
    settings: Settings,
    listener: "socket.socket",
    transport: "Transport",
    tokens: "DurableFile[Tokens]",
    *,
    is_token_required: bool = False,
    allowed_hosts: Sequence[str] = (),
) -> int:
    """Serve any number of clients over HTTP until SIGTERM or SIGINT; return the shell's 128 + signal.

    Raises:
        ConfigurationError: a setting is wrong; nothing was served.
    """
    from budget_server.database.asynchronous import AsyncFile
    from budget_server.database.writer import Writer
    from budget_server.transports.http import create_app  # here: a start on stdio should not wait for the HTTP stack

    resource = None
    if settings.budget_oauth_issuer:
        from budget_server.auth.resource_metadata import ProtectedResource  # here: it imports cryptography

        resource = ProtectedResource(settings)
    tools = chosen_tools(settings.budget_tools)
    services = Services(settings)
    kept_tokens = AsyncFile(Writer(tokens))
    door = create_app(
        create_server(services, tools),
        services,
        transport,
        kept_tokens,
        resource=resource,
        is_token_required=is_token_required,
        allowed_hosts=allowed_hosts,
    )
    gc.freeze()
    return anyio.run(_serve_http, door, services, listener, transport, kept_tokens)


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
            # A thread that reads standard input cannot be interrupted: an orderly exit would wait for it forever.
            os._exit(128 + received)


async def _serve_http(
    door: "ShutdownMiddleware",
    services: Services,
    listener: "socket.socket",
    transport: "Transport",
    tokens: "AsyncFile[Tokens]",
) -> int:
    from budget_server.transports.http import PATHS
    from budget_server.transports.sockets import base_url

    web = _web_server(door)
    code = 0

    async def end_on_signal(*, task_status: TaskStatus[None]) -> None:
        nonlocal code
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for received in signals:
                code = 128 + received
                # Unfinished work is settled at the next start.
                asyncio.get_running_loop().call_later(ENDING_SECONDS, os._exit, code)
                door.shut()
                await _settle(services)  # calls that wait for stopped work now get their answers
                await door.end()
                web.should_exit = True
                return

    async with anyio.create_task_group() as tasks:
        await tasks.start(end_on_signal)
        tasks.start_soon(services.settle_orphans)
        sys.stderr.write(f"cycles-budget-mcp on {base_url(listener)}{PATHS[transport]}\n")
        sys.stderr.flush()
        await web.serve(sockets=[listener])
        tasks.cancel_scope.cancel()
    await tokens.aclose()
    return code


def _web_server(door: "ShutdownMiddleware") -> "uvicorn.Server":
    import uvicorn

    from budget_server.transports.h11_guard import RefusingProtocol, unless_refused

    class WebServer(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave signals to ``end_on_signal``: money is settled before connections are closed."""
            yield

    return WebServer(
        uvicorn.Config(
            unless_refused(door),
            http=RefusingProtocol,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=FAREWELL_SECONDS,  # type: ignore[arg-type]  # only compared and waited for
        )
    )


async def _settle(services: Services) -> None:
    with anyio.move_on_after(SETTLE_SECONDS) as scope:
        await services.aclose()
    if scope.cancelled_caught:
        logger.warning("Not all was settled within %s s: what was in flight is charged at its bound", SETTLE_SECONDS)
