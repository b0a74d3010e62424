"""The commands by which a person manages delegations: ``cycles-budget-mcp delegations …``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, get_args

import anyio
import typer

from budget_server.cli.common import cli_errors, date_text, plain_table, table_console
from budget_server.config.settings import Settings, read_settings
from budget_server.database.file import wall_ms
from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import format_usd
from budget_tools.core.text_safety import printable
from budget_tools.delegation.records import RESUMABLE, Status, TurnRecord, excess_hint, uncovered_microcents
from budget_tools.delegation.store import Message, Stored

_DAY_MS = 86_400_000
_MAX_TASK_CHARACTERS = 60

app = typer.Typer(help="Look at delegations, cancel or forget them.", no_args_is_help=True)

DelegationId = Annotated[str, typer.Argument(help="A delegation's id, as the list shows it.", show_default=False)]


@app.command(name="list")
def list_delegations(
    status: Annotated[str, typer.Option(help=f"Only those that stand so: {', '.join(get_args(Status))}.")] = "",
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1_000)] = 20,
) -> None:
    """List delegations, the newest first."""
    with cli_errors(), _opened() as (store, settings):
        wanted = _status(status)
        found, more = anyio.run(lambda: store.list(settings.subject.tenant, status=wanted, limit=limit))
    table = plain_table("delegation", "status", "spent", "started", "task", amounts=["spent"])
    for each in found:
        table.add_row(
            each.delegation_id,
            each.status,
            f"${format_usd(each.spent_microcents)}",
            date_text(each.created_at_ms),
            _beginning(each.task.task),
        )
    table_console().print(table)
    if more:
        typer.echo(f"There are more than {limit}: see them with --limit.")


@app.command()
def show(delegation_id: DelegationId) -> None:
    """Show a delegation: how it stands, its turns, and what was said in it."""
    with cli_errors(), _opened() as (store, settings):
        stored = anyio.run(store.find, settings.subject.tenant, delegation_id)
        messages = anyio.run(store.conversation, delegation_id)
    typer.echo(_standing(stored))
    table = plain_table("turn", "model", "stop reason", "tokens in/out", "bound", "charged", "source", "tools",
                        amounts=["turn", "tokens in/out", "bound", "charged"])  # fmt: skip
    for turn in stored.turns:
        prompt = turn.input_tokens + turn.cache_read_input_tokens + turn.cache_creation_input_tokens
        table.add_row(
            str(turn.number),
            turn.model,
            turn.stop_reason,
            f"{prompt}/{turn.output_tokens}",
            "" if turn.reserved is None else str(turn.reserved),
            "" if turn.charged is None else str(turn.charged),
            turn.actual_source,
            ", ".join(f"{call.name}{'' if call.ok else ' (failed)'}" for call in turn.tool_calls),
        )
    table_console(150).print(table)
    for turn in stored.turns:
        for line in _notes(turn):
            typer.echo(_harmless(line))
    for message in messages:
        for line in _lines(message):
            typer.echo(_harmless(line))


@app.command()
def cancel(delegation_id: DelegationId) -> None:
    """Ask the process that runs a delegation to stop it; what is in flight is settled, and it can be resumed."""
    with cli_errors(), _opened() as (store, settings):
        stored = anyio.run(store.find, settings.subject.tenant, delegation_id)
        if stored.status != "running":
            raise InvalidArgumentError(f"Delegation {delegation_id} does not run: it is {stored.status}.")
        anyio.run(store.request_cancel, settings.subject.tenant, delegation_id)
    typer.echo(f"Delegation {delegation_id} is asked to stop.")


@app.command()
def prune(
    days: Annotated[
        int, typer.Option(help="Forget what has not changed for so many days; BUDGET_KEEP_DAYS else.")
    ] = -1,
) -> None:
    """Forget delegations that stopped long ago, with all that was said in them."""
    with cli_errors(), _opened() as (store, settings):
        kept_days = settings.budget_keep_days if days < 0 else days
        forgotten = anyio.run(store.prune, wall_ms() - kept_days * _DAY_MS)
    typer.echo(f"{forgotten} delegation{'' if forgotten == 1 else 's'} forgotten.")


@contextmanager
def _opened() -> Iterator[tuple[SqliteDelegationStore, Settings]]:
    settings = read_settings()
    store = SqliteDelegationStore(settings.budget_data_dir)
    try:
        yield store, settings
    finally:
        anyio.run(store.aclose)


def _status(text: str) -> Status | None:
    for status in get_args(Status):
        if text == status:
            return status  # type: ignore[no-any-return]
    if text:
        raise InvalidArgumentError(f"--status must be one of {', '.join(get_args(Status))}.")
    return None


def _standing(stored: Stored) -> str:
    resumable = ", can be resumed" if stored.status in RESUMABLE else ""
    nested = stored.children_spent_microcents
    below = f", ${format_usd(nested)} by delegations of its sub-agent" if nested else ""
    missing = sum(uncovered_microcents(turn) for turn in stored.turns)
    missing_text = f", ${format_usd(missing)} not covered" if missing else ""
    hint = f"\n{stored.hint}" if stored.hint else ""
    return (
        f"{stored.delegation_id}: {stored.status}{resumable}; "
        f"${format_usd(stored.spent_microcents)} spent{missing_text}{below}; "
        f"started {date_text(stored.created_at_ms)}, last changed {date_text(stored.updated_at_ms)}.{hint}"
    )


def _notes(turn: TurnRecord) -> Iterator[str]:
    """Yield the reason for a turn's charge, and other facts worth knowing about it."""
    told = " ".join(turn.warnings)
    if turn.charged_because and turn.charged_because.rstrip(".") not in told:
        charged = "nothing" if turn.charged is None else str(turn.charged)
        yield f"turn {turn.number} was charged {charged}: {turn.charged_because}"
    yield from turn.warnings
    if excess := excess_hint(turn):
        yield excess


def _lines(message: Message) -> Iterator[str]:
    who = "Claude" if message.role == "assistant" else "told"
    if isinstance(message.content, str):
        yield f"[{who}] {message.content}"
        return
    for block in message.content:
        match block.get("type"):
            case "text":
                yield f"[{who}] {block['text']}"
            case "tool_use":
                yield f"[{who} uses {block['name']}] {block['input']}"
            case "tool_result":
                parts = block.get("content", ())
                yield f"[result] {' '.join(part.get('text', '(not text)') for part in parts)}"
            case other:
                yield f"[{who}] ({other})"


def _harmless(text: str) -> str:
    """Return foreign text without characters that would control a terminal."""
    return printable(text, keep="\n\t")


def _beginning(task: str) -> str:
    line = _harmless(" ".join(task.split()))
    return line if len(line) <= _MAX_TASK_CHARACTERS else f"{line[: _MAX_TASK_CHARACTERS - 3]}..."
