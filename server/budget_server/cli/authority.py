"""The commands of the HTTP interface: ``cycles-budget-mcp authority`` serves it, ``authority key …`` has its keys."""

import gc
import socket
from typing import Annotated

import typer

from budget_server.authority import keys
from budget_server.authority.keys import ApiKey
from budget_server.cli.common import cli_errors, date_text, local_settings, opened_ledger, plain_table, table_console
from budget_server.config.settings import Settings
from budget_server.services import open_ledger
from budget_server.transports.sockets import base_url, is_loopback, listen
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.scopes import LEVEL_VALUE

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7878
"""The reference server's port, on loopback."""

SHUTDOWN_SECONDS = 2
"""Longest time that requests in progress keep an ending server alive, in seconds."""

app = typer.Typer(help="Serve this machine's ledger to other Cycles clients over HTTP.", invoke_without_command=True)
key_app = typer.Typer(help="Create, list and revoke the API keys of the HTTP face.", no_args_is_help=True)
app.add_typer(key_app, name="key")


@app.callback()
def authority(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no encryption.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65_535)] = DEFAULT_PORT,
) -> None:
    """Serve the Cycles runtime API (/v1/…, /health) over this machine's ledger, until interrupted."""
    if context.invoked_subcommand is not None:
        return
    with cli_errors():
        settings = local_settings()
        _serve(settings, listen(host, port))


@key_app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant it speaks for; the server's own if left out.")] = "",
    name: Annotated[str, typer.Option(help="What it is for, for people to tell keys apart.")] = "",
    days: Annotated[
        int | None, typer.Option(help="Days until it expires; never if left out.", min=1, max=36_500)
    ] = None,
) -> None:
    """Create an API key; its secret is shown this once."""
    with cli_errors():
        settings = local_settings()
        bound_to = _tenant(tenant) or settings.subject.tenant
        with opened_ledger(settings) as store:
            key, secret = store.run(
                lambda ledger: keys.create(
                    ledger.db,
                    tenant=bound_to,
                    name=name,
                    now_ms=ledger.now_ms,
                    expires_at_ms=None if days is None else ledger.now_ms + days * 86_400_000,
                )
            )
        typer.echo(f"Key {key.key_id} for tenant {key.tenant}. Its secret is shown only now:", err=True)
        typer.echo(secret)


@key_app.command(name="list")
def list_keys() -> None:
    """List all API keys, revoked and expired ones too."""
    with cli_errors(), opened_ledger(local_settings()) as store:
        found, now_ms = store.run(lambda ledger: (keys.all_keys(ledger.db), ledger.now_ms))
    table = plain_table("key", "tenant", "name", "starts with", "created", "state")
    for key in found:
        table.add_row(key.key_id, key.tenant, key.name, key.prefix, date_text(key.created_at_ms), _state(key, now_ms))
    table_console().print(table)


@key_app.command()
def revoke(key: Annotated[str, typer.Argument(help="Its id, or how its secret starts.")]) -> None:
    """Revoke an API key for good; the next request that carries it is refused."""
    with cli_errors(), opened_ledger(local_settings()) as store:
        revoked = store.run(lambda ledger: keys.revoke(ledger.db, key, ledger.now_ms))
    typer.echo(f"Key {revoked.key_id} of tenant {revoked.tenant} is revoked.")


def _serve(settings: Settings, listener: socket.socket) -> None:
    import uvicorn  # here: no other command needs the HTTP stack

    from budget_server.authority.http import create_app
    from budget_server.database.asynchronous import AsyncFile
    from budget_server.database.writer import Writer
    from budget_server.transports.h11_guard import RefusingProtocol, unless_refused

    app = create_app(AsyncFile(Writer(open_ledger(settings))))
    config = uvicorn.Config(
        unless_refused(app),
        http=RefusingProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    typer.echo(f"Cycles authority on {base_url(listener)} over {settings.budget_data_dir}", err=True)
    if not is_loopback(listener):
        typer.echo("Other machines can reach it, and there is no encryption: keys can be read on the way.", err=True)
    gc.freeze()  # collecting garbage among everything that was imported would delay requests now and then
    uvicorn.Server(config).run(sockets=[listener])


def _tenant(text: str) -> str:
    if text and (not LEVEL_VALUE.fullmatch(text) or text != text.lower()):
        raise InvalidArgumentError(
            f"{text!r} cannot be a tenant: use 1 to 128 lower-case letters, digits, '_', '.' or '-'."
        )
    return text


def _state(key: ApiKey, now_ms: int) -> str:
    if key.revoked_at_ms is not None:
        return f"revoked {date_text(key.revoked_at_ms)}"
    if key.expires_at_ms is None:
        return "good"
    return f"{'expired' if key.expires_at_ms <= now_ms else 'good until'} {date_text(key.expires_at_ms)}"
