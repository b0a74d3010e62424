"""Listening sockets, with a one-sentence error if an address is not available."""

import socket
from contextlib import ExitStack
from ipaddress import ip_address

from budget_tools.core.errors import ConfigurationError

BACKLOG = 2_048
"""Most connections that wait to be accepted."""


def listen(host: str, port: int, *, beyond_loopback: str = "") -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Args:
        host: a name or an address of this machine.
        port: the TCP port.
        beyond_loopback: the reason why no other machine may reach it; empty if others may.

    Raises:
        ConfigurationError: the address is not available or not allowed; nothing listens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns delays off only on sockets that name their protocol; otherwise an answer may wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with ExitStack() as undo:
        undo.callback(listener.close)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            if is_loopback(listener) or not beyond_loopback:
                listener.listen(BACKLOG)
        except OSError as exc:
            reason = exc.strerror.partition(" (while")[0] if exc.strerror else str(exc)
            raise ConfigurationError(
                f"Cannot listen on {host}:{port} ({reason}): free it, or choose another --host or --port."
            ) from exc
        if beyond_loopback and not is_loopback(listener):
            raise ConfigurationError(beyond_loopback)
        undo.pop_all()
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach it."""
    return ip_address(listener.getsockname()[0]).is_loopback


def base_url(listener: socket.socket) -> str:
    """Return the address as the beginning of a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
