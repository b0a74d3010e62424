"""The command line; without arguments the program is an MCP server on stdio (``__main__``)."""

from importlib.metadata import version
from typing import Annotated

import typer

from budget_server.cli import authority, backup, budget, check, delegations, doctor, install, prices, serve, token

app = typer.Typer(
    help="Let an MCP host spend money safely. Without a command: the MCP server on standard input and output.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"cycles-budget-mcp {version('cycles-budget-mcp')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Let an MCP host spend money safely."""


app.add_typer(budget.app, name="budget")
app.add_typer(authority.app, name="authority")
app.add_typer(delegations.app, name="delegations")
app.add_typer(token.app, name="token")
app.command()(serve.serve)
app.command()(check.check)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(prices.prices)
app.command()(install.install)
app.command()(doctor.doctor)


@app.command()
def demo() -> None:
    """Show the whole job end to end: a client, this server, a budget, and a sub-agent that stops at its end."""
    from budget_server.demo.tour import main

    raise typer.Exit(main())
