"""The command ``cycles-budget-mcp check``: is this ledger sound, and if not, what is wrong with it."""

from pathlib import Path
from typing import Annotated

import apsw
import typer

from budget_server.authority.audit import MAX_FINDINGS, audit
from budget_server.commands import local_settings, sentences
from budget_server.services import LEDGER_FILE
from budget_server.storage.file import wall_ms
from budget_tools.errors import ConfigurationError


def check(
    ledger: Annotated[
        Path | None,
        typer.Argument(help="A ledger file; the one in BUDGET_DATA_DIR if left out.", show_default=False),
    ] = None,
) -> None:
    """Verify a whole ledger file, without changing it; exit code 1 means that something is wrong."""
    with sentences():
        path = ledger or local_settings().budget_data_dir / LEDGER_FILE
        if not path.is_file():
            raise ConfigurationError(f"There is no ledger at {path}: name one, or set BUDGET_DATA_DIR.")
        try:
            result = audit(path, wall_ms())
        except apsw.Error as exc:
            raise ConfigurationError(f"{path} cannot be read as a ledger: {exc}.") from exc
    for finding in result.findings:
        typer.echo(finding)
    if result.findings:
        many = f"{len(result.findings)} or more" if len(result.findings) == MAX_FINDINGS else str(len(result.findings))
        typer.echo(f"{path} is not sound: {many} found.", err=True)
        raise typer.Exit(1)
    typer.echo(
        f"{path} is sound: {result.budgets} budgets, {result.reservations} reservations, {result.events} events."
    )
