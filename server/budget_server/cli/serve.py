"""The command ``serve``: this server on standard input and output, or over HTTP."""

import re
from typing import Annotated, Literal

import typer

from budget_server.auth.tokens import Tokens, open_tokens
from budget_server.cli.common import cli_errors
from budget_server.config.settings import read_settings
from budget_server.transports.sockets import is_loopback, listen
from budget_tools.core.errors import InvalidArgumentError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765

_HOST_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,39}\]")

_NO_AUTHENTICATION = (
    "Only loopback is listened on as long as nobody is asked who they are: make a token first "
    "(`cycles-budget-mcp token create --name NAME`), set BUDGET_OAUTH_ISSUER, or leave --host out."
)
_ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - the meaning of such a host is the point


def serve(
    transport: Annotated[
        Literal["stdio", "sse", "streamable-http"],
        typer.Option(help="stdio, streamable-http (at /mcp), or sse (at /sse) for older clients."),
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Over HTTP: the address to listen on.")] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(help="Over HTTP: the port; 0 takes a free one.", min=0, max=65_535)
    ] = DEFAULT_PORT,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Over HTTP: one more name that clients reach it by, such as that of a proxy; repeatable."),
    ] = None,
    require_token: Annotated[
        bool, typer.Option("--require-token", help="Over HTTP: let nobody in without a token, even before one is made.")
    ] = False,
) -> None:
    """Serve MCP: on standard input and output, as the program does without a command, or over HTTP."""
    from budget_server.transports.lifecycle import serve_http, serve_stdio  # here: other commands do not need MCP

    names = list(allow_host or [])
    with cli_errors():
        for name in names:
            _check_name(name)
        settings = read_settings()
        if transport == "stdio":
            code = serve_stdio(settings)
        else:
            tokens = open_tokens(settings.budget_data_dir)
            is_asked = require_token or bool(settings.budget_oauth_issuer) or tokens.run(Tokens.any)
            listener = listen(host, port, beyond_loopback="" if is_asked else _NO_AUTHENTICATION)
            if not is_loopback(listener):
                typer.echo("Other machines can reach it, and there is no encryption: put a proxy before it.", err=True)
                if host not in _ANY_ADDRESS:
                    names.append(f"[{host}]" if ":" in host else host)
            code = serve_http(settings, listener, transport, tokens, is_token_required=is_asked, allowed_hosts=names)
    raise typer.Exit(code)


def _check_name(name: str) -> None:
    if not _HOST_NAME.fullmatch(name):
        raise InvalidArgumentError(f"--allow-host {name!r} is no host name: give it without scheme, port and path.")
