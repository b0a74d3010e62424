"""The command ``cycles-budget-mcp check``: whether the ledger and the delegations are sound, and every fault found."""

from pathlib import Path
from typing import Annotated

import apsw
import typer

from budget_server.authority.audit import audit
from budget_server.cli.common import cli_errors, local_settings
from budget_server.config.paths import LEDGER_FILE
from budget_server.database.audit import MAX_FINDINGS
from budget_server.database.file import wall_ms
from budget_server.maintenance.consistency import Inspection, inspect
from budget_tools.core.errors import ConfigurationError


def check(
    ledger: Annotated[
        Path | None,
        typer.Argument(help="A ledger file; all of BUDGET_DATA_DIR if left out.", show_default=False),
    ] = None,
) -> None:
    """Verify the whole ledger, and that the delegations agree with it; exit code 1 means that something is wrong.

    Nothing is changed, and servers may go on working.
    """
    with cli_errors():
        path = ledger or local_settings().budget_data_dir / LEDGER_FILE
        if not path.is_file():
            raise ConfigurationError(f"There is no ledger at {path}: name one, or set BUDGET_DATA_DIR.")
        result = inspect(path.parent, wall_ms()) if ledger is None else _ledger_alone(path)
    for line in (*result.findings, *result.notes):
        typer.echo(line)
    if result.findings:
        more = " or more" if len(result.findings) >= MAX_FINDINGS else ""
        typer.echo(f"{path} is not sound: {len(result.findings)}{more} found.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{path} is sound: {', '.join(result.counts)}.")


def _ledger_alone(path: Path) -> Inspection:
    try:
        found = audit(path, wall_ms())
    except apsw.Error as exc:
        raise ConfigurationError(f"{path} cannot be read as a ledger: {exc}.") from exc
    counts = f"{found.budgets} budgets, {found.reservations} reservations, {found.events} events"
    return Inspection(findings=found.findings, counts=[counts])
