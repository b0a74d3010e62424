"""The commands by which a person sets budgets: ``cycles-budget-mcp budget …``."""

from collections.abc import Callable
from typing import Annotated

import apsw
import typer
from rich.table import Table

from budget_server.authority import budgets
from budget_server.authority.balance import Budget
from budget_server.commands import local_settings, opened_ledger, sentences, table_console
from budget_tools.errors import InvalidArgumentError
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
    with sentences():
        settings = local_settings()
        with opened_ledger(settings) as store:
            found = store.run(lambda ledger: budgets.all_budgets(ledger.db, settings.subject.tenant))
        _print(found)


@app.command()
def allocate(amount: AmountText, scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Set what a scope may use in all, creating its budget where there is none."""
    with sentences():
        whole = _amount(amount, unit)
        _change(
            scope, lambda db, path, tenant: budgets.allocate(db, scope=path, tenant=tenant, unit=unit, amount=whole)
        )


@app.command()
def fund(amount: AmountText, scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Add to what a scope may use; a debt is repaid first."""
    with sentences():
        whole = _amount(amount, unit)
        _change(scope, lambda db, path, _: budgets.fund(db, scope=path, unit=unit, amount=whole))


@app.command()
def freeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Stop all new reservations of a scope; what is held can still be settled."""
    with sentences():
        _set_status(scope, unit, "FROZEN")


@app.command()
def unfreeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Let a frozen budget be used again."""
    with sentences():
        _set_status(scope, unit, "ACTIVE")


@app.command()
def close(
    scope: Scope = "",
    unit: Unit = USD_MICROCENTS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Close a budget for good; what is held can still be settled."""
    with sentences():
        if not yes:
            typer.confirm(f"Close the budget of {scope or 'the tenant'} for good?", abort=True)
        _set_status(scope, unit, "CLOSED")


def _set_status(scope: str, unit: str, status: str) -> None:
    _change(scope, lambda db, path, _: budgets.set_status(db, scope=path, unit=unit, status=status))


def _change(scope: str, change: Change) -> None:
    settings = local_settings()
    tenant = settings.subject.tenant
    path = budgets.parse_scope(scope, tenant)
    with opened_ledger(settings) as store:
        changed = store.run(lambda ledger: change(ledger.db, path, tenant))
    _print([changed])


def _amount(text: str, unit: str) -> int:
    if unit not in UNITS:
        raise InvalidArgumentError(f"unit must be one of {', '.join(UNITS)}.")
    if unit == USD_MICROCENTS:
        return parse_usd(text, name="The amount")
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_AMOUNT or len(text) > 19:
        raise InvalidArgumentError(f"The amount must be a whole number of {unit}, from 0 to {MAX_AMOUNT}.")
    return int(text)


def _print(found: list[Budget]) -> None:
    table = Table("scope", "unit", "status")
    for column in ("allocated", "spent", "held", "owed", "remaining"):
        table.add_column(column, justify="right")
    for budget in found:
        amounts = (budget.allocated, budget.spent, budget.reserved, budget.debt, budget.remaining)
        status = f"{budget.status}, over its limit" if budget.is_over_limit else budget.status
        table.add_row(budget.scope, budget.unit, status, *(str(Money.of(amount, budget.unit)) for amount in amounts))
    table_console().print(table)
