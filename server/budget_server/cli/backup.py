"""The commands ``cycles-budget-mcp backup`` and ``restore``: a copy of the data directory, and putting it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from budget_server.cli.common import cli_errors, date_text
from budget_server.config.settings import read_settings
from budget_server.maintenance.backup import make_backup
from budget_server.maintenance.restore import Ready, made_ready
from budget_tools.core.money import USD_MICROCENTS, format_usd


def backup(
    destination: Annotated[
        Path, typer.Argument(help="The backup: a directory that does not exist yet.", show_default=False)
    ],
) -> None:
    """Copy the ledger, the delegations and all else of BUDGET_DATA_DIR, as they are at one moment, and check the copy.

    Servers may go on working.
    """
    with cli_errors():
        inspection = make_backup(read_settings().budget_data_dir, destination)
    typer.echo(f"Backed up to {destination}, and checked: {', '.join(inspection.counts)}.")
    for note in inspection.notes:
        typer.echo(note)


def restore(
    source: Annotated[
        Path,
        typer.Argument(help="A backup, or what an earlier restore kept (before-restore-...).", show_default=False),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a backup in the place of what is in BUDGET_DATA_DIR, which is kept beside it; no server may run on it.

    What was spent since the backup was made, it does not know.
    """
    with cli_errors(), made_ready(source, read_settings().budget_data_dir) as ready:
        for line in _consequences(ready):
            typer.echo(line)
        if not yes:
            typer.confirm(f"Replace what is in {ready.directory}?", abort=True)
        kept = ready.put_back()
    typer.echo(f"{ready.directory} is restored from {source}.")
    if kept is not None:
        typer.echo(f"What was there is kept: `cycles-budget-mcp restore {kept}` puts it back.")


def _consequences(ready: Ready) -> list[str]:
    lines = [f"This is as it was on {date_text(ready.as_of_ms)}: {', '.join(ready.inspection.counts)}."]
    if ready.spent_since is None:
        lines.append("What was spent since then is not known: compare it with the bill before you go on.")
    elif ready.spent_since:
        lines.append(
            f"Since then {_amounts(ready.spent_since)} was spent, which it does not know: that comes back into the "
            "budget. Lower it afterwards: `cycles-budget-mcp budget allocate`."
        )
    lines.append("Budgets that people set or changed since then are as they were.")
    lines.append("Reservations of then run out by their own time; delegations that ran are settled at the next start.")
    if ready.keeps_tokens:
        lines.append("Access tokens stay as they are now.")
    return lines


def _amounts(spent: Mapping[str, int]) -> str:
    return " and ".join(
        f"${format_usd(amount)}" if unit == USD_MICROCENTS else f"{amount} {unit}"
        for unit, amount in sorted(spent.items())
    )
