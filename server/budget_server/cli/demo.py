"""The command ``cycles-budget-mcp demo``."""

import typer


def demo() -> None:
    """Show the whole job end to end: a client, this server, a budget, and a sub-agent that stops at its end."""
    from budget_server.demo.tour import main  # here: `--help` needs no MCP client

    raise typer.Exit(main())
