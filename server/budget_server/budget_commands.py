"""The commands by which a person sets budgets: ``cycles-budget-mcp budget …``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import apsw
import typer
from rich.console import Console
from rich.table import Table

from budget_server.authority import budgets
from budget_server.authority.balance import Budget
from budget_server.authority.refusals import LedgerUnavailableError
from budget_server.services import open_ledger
from budget_server.settings import Settings, read_settings
from budget_tools.errors import BudgetError, ConfigurationError, InvalidArgumentError
from budget_tools.money import MAX_AMOUNT, UNITS, USD_MICROCENTS, Money, parse_usd

app = typer.Typer(help="Show and set the budgets of this machine's ledger.", no_args_is_help=True)

Scope = Annotated[
    str, typer.Option(help="Such as tenant:local/agent:bot; the tenant's root if left out.", show_default=False)
]
Unit = Annotated[str, typer.Option(help=f"One of {', '.join(UNITS)}; amounts of the first are given in dollars.")]
AmountText = Annotated[str, typer.Argument(help="Dollars such as 5 or 0.50, or a whole number of another unit.")]

Change = Callable[[apsw.Connection, str, str], Budget]
"""Does something to the budget of a scope of a tenant."""


@app.command()
def show() -> None:
    """Show every budget: allocated, spent, held and remaining."""
    with _sentences():
        settings = _local_settings()
        store = open_ledger(settings)
        try:
            found = store.run(lambda ledger: budgets.all_budgets(ledger.db, settings.subject.tenant))
        finally:
            store.close()
        _print(found)


@app.command()
def allocate(amount: AmountText, scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Set what a scope may use in all, creating its budget where there is none."""
    with _sentences():
        whole = _amount(amount, unit)
        _change(
            scope, lambda db, path, tenant: budgets.allocate(db, scope=path, tenant=tenant, unit=unit, amount=whole)
        )


@app.command()
def fund(amount: AmountText, scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Add to what a scope may use; a debt is repaid first."""
    with _sentences():
        whole = _amount(amount, unit)
        _change(scope, lambda db, path, _: budgets.fund(db, scope=path, unit=unit, amount=whole))


@app.command()
def freeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Stop all new reservations of a scope; what is held can still be settled."""
    with _sentences():
        _set_status(scope, unit, "FROZEN")


@app.command()
def unfreeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Let a frozen budget be used again."""
    with _sentences():
        _set_status(scope, unit, "ACTIVE")


@app.command()
def close(
    scope: Scope = "",
    unit: Unit = USD_MICROCENTS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Close a budget for good; what is held can still be settled."""
    with _sentences():
        if not yes:
            typer.confirm(f"Close the budget of {scope or 'the tenant'} for good?", abort=True)
        _set_status(scope, unit, "CLOSED")


def _set_status(scope: str, unit: str, status: str) -> None:
    _change(scope, lambda db, path, _: budgets.set_status(db, scope=path, unit=unit, status=status))


def _change(scope: str, change: Change) -> None:
    settings = _local_settings()
    tenant = settings.subject.tenant
    path = budgets.parse_scope(scope, tenant)
    store = open_ledger(settings)
    try:
        changed = store.run(lambda ledger: change(ledger.db, path, tenant))
    finally:
        store.close()
    _print([changed])


def _local_settings() -> Settings:
    settings = read_settings()
    if settings.is_remote:
        raise ConfigurationError("CYCLES_BASE_URL is set: budgets live on that Cycles server, and are set there.")
    return settings


def _amount(text: str, unit: str) -> int:
    if unit not in UNITS:
        raise InvalidArgumentError(f"unit must be one of {', '.join(UNITS)}.")
    if unit == USD_MICROCENTS:
        return parse_usd(text, name="The amount")
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_AMOUNT or len(text) > 19:
        raise InvalidArgumentError(f"The amount must be a whole number of {unit}, from 0 to {MAX_AMOUNT}.")
    return int(text)


@contextmanager
def _sentences() -> Iterator[None]:
    """End a command that cannot do what it was asked with one sentence and exit code 2."""
    try:
        yield
    except (BudgetError, LedgerUnavailableError) as exc:
        typer.echo(f"cycles-budget-mcp: {exc}", err=True)
        raise typer.Exit(2) from None


def _print(found: list[Budget]) -> None:
    table = Table("scope", "unit", "status")
    for column in ("allocated", "spent", "held", "owed", "remaining"):
        table.add_column(column, justify="right")
    for budget in found:
        amounts = (budget.allocated, budget.spent, budget.reserved, budget.debt, budget.remaining)
        status = f"{budget.status}, over its limit" if budget.is_over_limit else budget.status
        table.add_row(budget.scope, budget.unit, status, *(str(Money.of(amount, budget.unit)) for amount in amounts))
    console = Console(highlight=False)
    console.width = max(console.width, 118) if not console.is_terminal else console.width
    console.print(table)
