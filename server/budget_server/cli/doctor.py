"""The command ``cycles-budget-mcp doctor``: whether everything works, and if not, what to do."""

from collections.abc import Iterator
from typing import Annotated

import typer

from budget_server.config.settings import Settings, read_settings
from budget_server.doctor import machine, money, outside
from budget_server.doctor.finding import Finding, problem
from budget_tools.core.errors import ConfigurationError


def doctor(
    servers: Annotated[
        bool, typer.Option("--servers", help="Start each server of the tools file, and ask for its tools.")
    ] = False,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Prove the way to the Claude API or its gateway, and the credential, with one request that is free of "
            "charge; ask the OAuth issuer for its keys.",
        ),
    ] = False,
) -> None:
    """Check this installation, its budgets and its hosts, one line each; exit code 1 means that there is a problem.

    Nothing is sent to the Claude API, or to an OAuth issuer, without --online, and no secret is shown.
    """
    is_sick = False
    for finding in _findings(servers=servers, online=online):
        is_sick = is_sick or finding.level == "problem"
        typer.echo(f"{finding.level:<8} {finding.text.replace(chr(10), ' ')}")
    raise typer.Exit(1 if is_sick else 0)


def _findings(*, servers: bool, online: bool) -> Iterator[Finding]:
    yield from machine.programs()
    settings: Settings | None = None
    try:
        settings = read_settings()
    except ConfigurationError as exc:
        yield problem(f"{exc.message.rstrip('.')}: nothing that depends on the settings was looked at.")
    if settings is not None:
        yield from machine.data_directory(settings)
        yield from machine.time_zone(settings)
        yield from money.authority(settings) if settings.is_remote else money.ledger(settings)
        yield from money.people(settings)
        yield from money.delegations(settings)
        yield from money.prices(settings)
        yield from outside.tools(settings, starts_servers=servers)
        yield from outside.claude(settings, is_online=online)
        yield from outside.issuer(settings, is_online=online)
    yield from outside.hosts(settings)
