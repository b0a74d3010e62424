"""The commands by which a person limits calls: ``cycles-budget-mcp budget quota …``."""

from typing import Annotated

import typer

from budget_server.authority import budgets, quotas
from budget_server.authority.quotas import MAX_CALLS, WINDOWS, Quota
from budget_server.cli.common import cli_errors, local_settings, opened_ledger, plain_table, table_console
from budget_tools.core.errors import InvalidArgumentError

app = typer.Typer(help="Limit how often an action kind may be reserved.", no_args_is_help=True)

Kind = Annotated[str, typer.Argument(help="An action kind such as llm.completion or tool.call.")]
Scope = Annotated[
    str, typer.Option(help="Such as tenant:local/agent:bot; the tenant's root if left out.", show_default=False)
]
Per = Annotated[str, typer.Option(help=f"One of {', '.join(WINDOWS)}; minutes and days are those of UTC.")]


@app.command(name="set")
def set_quota(
    kind: Kind,
    calls: Annotated[int, typer.Argument(help="Most calls in each window.", min=1, max=MAX_CALLS)],
    per: Per,
    scope: Scope = "",
) -> None:
    """Allow a scope, with all below it, so many calls of a kind per run, minute or day."""
    with cli_errors():
        settings = local_settings()
        path, tenant = budgets.parse_scope(scope, settings.subject.tenant)
        quota = Quota(path, _kind(kind), _window(per), calls)
        with opened_ledger(settings) as store:
            store.run(lambda ledger: quotas.set_quota(ledger.db, tenant, quota))
    typer.echo(f"{path} may make {calls} calls of {kind} per {per}.")


@app.command(name="list")
def list_quotas() -> None:
    """List every quota of this ledger."""
    with cli_errors(), opened_ledger(local_settings()) as store:
        found = store.run(lambda ledger: quotas.all_quotas(ledger.db))
    table = plain_table("scope", "action kind", "calls", "per", amounts=["calls"])
    for quota in found:
        table.add_row(quota.scope, quota.action_kind, str(quota.max_calls), quota.window)
    table_console().print(table)


@app.command()
def remove(kind: Kind, per: Per, scope: Scope = "") -> None:
    """Remove a quota, with what it has counted."""
    with cli_errors():
        settings = local_settings()
        path, tenant = budgets.parse_scope(scope, settings.subject.tenant)
        with opened_ledger(settings) as store:
            store.run(
                lambda ledger: quotas.remove_quota(ledger.db, tenant, scope=path, action_kind=kind, window=_window(per))
            )
    typer.echo(f"{path} may make any number of calls of {kind} per {per}.")


def _kind(text: str) -> str:
    if not text.strip() or len(text) > 64:
        raise InvalidArgumentError("The action kind must be 1 to 64 characters, such as llm.completion.")
    return text


def _window(text: str) -> str:
    if text not in WINDOWS:
        raise InvalidArgumentError(f"--per must be one of {', '.join(WINDOWS)}.")
    return text
