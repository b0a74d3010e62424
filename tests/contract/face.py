"""The HTTP face as tests reach it: uvicorn on a loopback port, in a thread of the test's own process."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


class Face:
    """Serves one application after the other at one address: starting a server for each test would cost more."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        # asyncio does so only for sockets that name their protocol, and each answer would wait 40 ms for an ACK.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the application of the test that is running."""
        assert self.app is not None
        await self.app(scope, receive, send)

    @contextmanager
    def serving(self) -> Iterator["Face"]:
        """Run uvicorn in a thread of its own."""
        server = _Uvicorn(uvicorn.Config(self, lifespan="off", log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [self._listener]}, name="http-face")
        thread.start()
        try:
            assert server.is_up.wait(10), "the server did not start"
            yield self
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


def plain_loopback(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Keep the machine's proxies and certificates away from HTTP clients: reading the latter takes 60 ms a client."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
