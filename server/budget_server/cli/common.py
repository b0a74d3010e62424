"""Helpers of the commands on this machine's ledger: opening it, one-sentence errors, tables."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from budget_server.authority.store import LedgerStore
from budget_server.config.settings import Settings, read_settings
from budget_server.services import open_ledger
from budget_tools.core.errors import BudgetError, ConfigurationError

_TABLE_COLUMNS = 118


def local_settings() -> Settings:
    """Read the settings of a command that requires a ledger on this machine.

    Raises:
        ConfigurationError: budgets live on a Cycles server.
    """
    settings = read_settings()
    if settings.is_remote:
        raise ConfigurationError("CYCLES_BASE_URL is set: budgets live on that Cycles server, and are set there.")
    return settings


@contextmanager
def opened_ledger(settings: Settings) -> Iterator[LedgerStore]:
    """Open the ledger for one command."""
    store = open_ledger(settings)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def cli_errors() -> Iterator[None]:
    """End a command that fails with one sentence and exit code 2."""
    try:
        yield
    except BudgetError as exc:
        typer.echo(f"cycles-budget-mcp: {exc}", err=True)
        raise typer.Exit(2) from None


def date_text(at_ms: int, time_zone: str = "") -> str:
    """Return a moment to the minute, in a time zone or this machine's own."""
    moment = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return f"{moment.astimezone(ZoneInfo(time_zone) if time_zone else None):%Y-%m-%d %H:%M}"


def plain_table(*columns: str, amounts: Collection[str] = ()) -> Table:
    """Build a table whose cells are never cut short, however narrow the terminal: an id or an amount must be whole."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in amounts else "left", overflow="fold")
    return table


def table_console(columns: int = _TABLE_COLUMNS) -> Console:
    """Return a console for a table, wide enough to be read in a log as well."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, columns)
    return console
