"""The command line; without arguments the program is an MCP server on stdio (``__main__``).

A command's module is imported when the command is used: most of them need neither the MCP SDK nor a web server, and
those take most of a second to import.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS = {
    "serve": "serve",
    "demo": "demo",
    "install": "install",
    "doctor": "doctor",
    "budget": "budget",
    "delegations": "delegations",
    "prices": "prices",
    "check": "check",
    "backup": "backup",
    "restore": "backup",
    "token": "token",
    "authority": "authority",
}
"""Every command, in the order of ``--help``, and its module, which has it as its ``app`` or as a function."""


class CommandGroup(TyperGroup):
    """The commands of ``COMMANDS``, each imported on its first use."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - whatever Typer hands over
        super().__init__(**attributes)
        # The names alone, for suggestions; `get_command` finds the command itself.
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - Typer's own copy of click
        """Import a command; ``None`` if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"budget_server.cli.{COMMANDS[cmd_name]}")
        commands = getattr(module, "app", None)
        if commands is None:
            commands = typer.Typer(add_completion=False)
            commands.command(cmd_name)(getattr(module, cmd_name))
        command = get_command(commands)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=CommandGroup,
    help="Let an MCP host spend money safely. Without a command: the MCP server on standard input and output.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # here: it imports the standard library's mail parser

        typer.echo(f"cycles-budget-mcp {version('cycles-budget-mcp')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Let an MCP host spend money safely."""
