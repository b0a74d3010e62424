"""The commands by which a person sets budgets: ``cycles-budget-mcp budget …``."""

from collections.abc import Callable
from typing import Annotated

import typer

from budget_server.authority import budgets
from budget_server.authority.balance import Budget
from budget_server.authority.ledger import Ledger
from budget_server.authority.periods import PERIODS
from budget_server.cli import quota
from budget_server.cli.common import cli_errors, date_text, local_settings, opened_ledger, plain_table, table_console
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import MAX_AMOUNT, UNITS, USD_MICROCENTS, parse_usd
from budget_tools.core.scopes import clear_command

app = typer.Typer(help="Show and set the budgets of this machine's ledger.", no_args_is_help=True)

Scope = Annotated[
    str, typer.Option(help="Such as tenant:local/agent:bot; the tenant's root if left out.", show_default=False)
]
Unit = Annotated[str, typer.Option(help=f"One of {', '.join(UNITS)}; amounts of the first are given in dollars.")]
AmountText = Annotated[str, typer.Argument(help="Dollars such as 5 or 0.50, or a whole number of another unit.")]

Change = Callable[[Ledger, str, str], Budget]
"""A change of the budget of a scope of a tenant."""

app.add_typer(quota.app, name="quota")


@app.command()
def show() -> None:
    """Show every budget of this ledger: allocated, spent, held and remaining."""
    with cli_errors():
        with opened_ledger(local_settings()) as store:
            found = store.run(lambda ledger: budgets.all_budgets(ledger.db))
        _print(found)


@app.command()
def allocate(
    amount: AmountText,
    scope: Scope = "",
    unit: Unit = USD_MICROCENTS,
    period: Annotated[
        str | None, typer.Option(help=f"How often it starts anew: {', '.join(PERIODS)}.", show_default=False)
    ] = None,
    overdraft_limit: Annotated[
        str | None, typer.Option(help="How much it may owe, in the unit of the amount.", show_default=False)
    ] = None,
    caps: Annotated[
        str | None,
        typer.Option(
            help='Caps, as JSON such as {"max_tokens": 2000}, sent along with an ALLOW where this budget is the '
            "deepest; {} for none."
        ),
    ] = None,
) -> None:
    """Set what a scope may use in all, creating its budget if it has none; options left out stay as they are."""
    with cli_errors():
        settings = local_settings()
        whole = _amount(amount, unit)
        most_debt = None if overdraft_limit is None else _amount(overdraft_limit, unit, name="--overdraft-limit")
        new_caps = None if caps is None else budgets.parse_caps(caps)
        if period is not None and period not in PERIODS:
            raise InvalidArgumentError(f"--period must be one of {', '.join(PERIODS)}.")
        time_zone = "UTC" if period in (None, "none") else settings.time_zone

        def change(ledger: Ledger, path: str, tenant: str) -> Budget:
            changed = budgets.allocate(ledger.db, scope=path, tenant=tenant, unit=unit, amount=whole)
            if period is not None:
                changed = budgets.set_period(
                    ledger.db, scope=path, unit=unit, period=period, time_zone=time_zone, now_ms=ledger.now_ms
                )
            if most_debt is not None:
                changed = budgets.limit_debt(ledger.db, scope=path, unit=unit, overdraft_limit=most_debt)
            if caps is not None:
                changed = budgets.set_caps(ledger.db, scope=path, unit=unit, caps=new_caps)
            return changed

        _change(scope, change)


@app.command()
def fund(amount: AmountText, scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Add to what a scope may use; a debt is repaid first. What was not covered stays shown until `budget clear`."""
    with cli_errors():
        whole = _amount(amount, unit)
        _change(scope, lambda ledger, path, _: budgets.fund(ledger.db, scope=path, unit=unit, amount=whole))


@app.command()
def clear(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Clear what a budget could not cover, once you have seen it: the number goes, and no money moves.

    It was spent and charged to no budget. It is shown until it is cleared here, in new periods and after funding too.
    """
    with cli_errors():
        settings = local_settings()
        path, _ = budgets.parse_scope(scope, settings.subject.tenant)
        with opened_ledger(settings) as store:
            seen, cleared = store.run(lambda ledger: budgets.clear_uncovered(ledger.db, scope=path, unit=unit))
        _print([cleared])
        typer.echo(f"Cleared: {cleared.show(seen)} that {path} could not cover.")


@app.command()
def freeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Stop all new reservations of a scope; what is held can still be settled."""
    with cli_errors():
        _set_status(scope, unit, "FROZEN")


@app.command()
def unfreeze(scope: Scope = "", unit: Unit = USD_MICROCENTS) -> None:
    """Let a frozen budget be used again."""
    with cli_errors():
        _set_status(scope, unit, "ACTIVE")


@app.command()
def close(
    scope: Scope = "",
    unit: Unit = USD_MICROCENTS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Close a budget for good; what is held can still be settled."""
    with cli_errors():
        if not yes:
            typer.confirm(f"Close the budget of {scope or 'the tenant'} for good?", abort=True)
        _set_status(scope, unit, "CLOSED")


def _set_status(scope: str, unit: str, status: str) -> None:
    _change(scope, lambda ledger, path, _: budgets.set_status(ledger.db, scope=path, unit=unit, status=status))


def _change(scope: str, change: Change) -> None:
    settings = local_settings()
    path, tenant = budgets.parse_scope(scope, settings.subject.tenant)
    with opened_ledger(settings) as store:
        changed = store.run(lambda ledger: change(ledger, path, tenant))
    _print([changed])


def _amount(text: str, unit: str, *, name: str = "The amount") -> int:
    if unit not in UNITS:
        raise InvalidArgumentError(f"unit must be one of {', '.join(UNITS)}.")
    if unit == USD_MICROCENTS:
        return parse_usd(text, name=name)
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_AMOUNT or len(text) > 19:
        raise InvalidArgumentError(f"{name} must be a whole number of {unit}, from 0 to {MAX_AMOUNT}.")
    return int(text)


def _print(found: list[Budget]) -> None:
    """Print the amounts as a table, and the other terms below it; nothing is cut short in a narrow terminal."""
    columns = ("allocated", "spent", "held", "owed", "remaining")
    table = plain_table("scope", "status", *columns, amounts=columns)
    for budget in found:
        amounts = (budget.allocated, budget.spent, budget.reserved, budget.debt, budget.remaining)
        status = f"{budget.status}, over its limit" if budget.is_over_limit else budget.status
        table.add_row(budget.scope, status, *(budget.show(amount) for amount in amounts))
    table_console().print(table)
    for budget in found:
        if terms := _terms(budget):
            typer.echo(f"{budget.scope} in {budget.unit}: {terms}.")


def _terms(budget: Budget) -> str:
    terms = []
    if budget.period_end_ms is not None:
        terms.append(f"per {budget.period}, anew {date_text(budget.period_end_ms, budget.time_zone)}")
    if budget.uncovered:
        command = clear_command(budget.scope, budget.unit)
        terms.append(f"{budget.show(budget.uncovered)} was spent and not covered, until `{command}`")
    if budget.overdraft_limit:
        terms.append(f"may owe {budget.show(budget.overdraft_limit)}")
    if budget.caps is not None:
        terms.append(f"caps {budget.caps}")
    return "; ".join(terms)
