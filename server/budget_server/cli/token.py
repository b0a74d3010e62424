"""The commands that manage access to the server over a network: ``cycles-budget-mcp token …``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from budget_server.auth.tokens import AccessToken, Grant, Tokens, open_tokens
from budget_server.cli.common import cli_errors, date_text, plain_table, table_console
from budget_server.config.settings import Settings, read_settings
from budget_server.database.file import DurableFile, wall_ms
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import format_usd, parse_usd
from budget_tools.core.scopes import LEVEL_VALUE

_LIFETIME = re.compile(r"([1-9]\d{0,4})([dh])", re.ASCII)
_HOUR_MS = 3_600_000
_TABLE_COLUMNS = 160

app = typer.Typer(
    help="Create, list and revoke the tokens of clients that reach the server over HTTP.", no_args_is_help=True
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Whose it is, for people to tell tokens apart.")],
    tenant: Annotated[str, typer.Option(help="The tenant that spends; the server's own if left out.")] = "",
    workspace: Annotated[str, typer.Option(help="Workspace that spends, if any.")] = "",
    app_: Annotated[str, typer.Option("--app", help="App that spends, if any.")] = "",
    workflow: Annotated[str, typer.Option(help="Workflow that spends, if any.")] = "",
    agent: Annotated[str, typer.Option(help="Agent that spends, if any.")] = "",
    toolset: Annotated[str, typer.Option(help="Toolset that spends, if any.")] = "",
    tools: Annotated[str, typer.Option(help="The only tools it may use, with commas between; all if left out.")] = "",
    ceiling: Annotated[str, typer.Option(help="Most that each of its delegations may spend, in dollars.")] = "",
    expires: Annotated[str, typer.Option(help="When it expires, such as 90d or 12h; never if left out.")] = "",
) -> None:
    """Create a token; its secret is shown this once."""
    with cli_errors():
        settings = read_settings()
        levels = {
            "tenant": tenant or settings.subject.tenant,
            "workspace": workspace,
            "app": app_,
            "workflow": workflow,
            "agent": agent,
            "toolset": toolset,
        }
        grant = Grant(
            levels=_levels(levels, settings),
            tools=_tools(tools),
            ceiling_microcents=parse_usd(ceiling, name="--ceiling") if ceiling else None,
        )
        lifetime_ms = _lifetime_ms(expires)
        with _opened(settings) as file:
            token, secret = file.run(lambda tokens: tokens.create(grant, name=name, lifetime_ms=lifetime_ms))
        typer.echo(f"Token {token.token_id} for {_spender(token)}. Its secret is shown only now:", err=True)
        typer.echo(secret)


@app.command(name="list")
def list_tokens() -> None:
    """List all tokens, revoked and expired ones too."""
    with cli_errors(), _opened(read_settings()) as file:
        found = file.run(Tokens.all)
    table = plain_table("token", "name", "starts with", "spends as", "tools", "ceiling", "state", amounts=["ceiling"])
    for token in found:
        tools, ceiling = token.grant.tools, token.grant.ceiling_microcents
        table.add_row(
            token.token_id,
            token.name,
            token.prefix,
            _spender(token),
            "all" if tools is None else ", ".join(sorted(tools)),
            "" if ceiling is None else f"${format_usd(ceiling)}",
            _state(token),
        )
    table_console(_TABLE_COLUMNS).print(table)


@app.command()
def revoke(token: Annotated[str, typer.Argument(help="Its id, or how its secret starts.")]) -> None:
    """Revoke a token for good; the next request that carries it is refused."""
    with cli_errors(), _opened(read_settings()) as file:
        revoked = file.run(lambda tokens: tokens.revoke(token))
    typer.echo(f"Token {revoked.token_id} ({revoked.name}) is revoked.")


@contextmanager
def _opened(settings: Settings) -> Iterator[DurableFile[Tokens]]:
    file = open_tokens(settings.budget_data_dir)
    try:
        yield file
    finally:
        file.close()


def _levels(levels: dict[str, str], settings: Settings) -> dict[str, str]:
    given = {level: value for level, value in levels.items() if value}
    for level, value in given.items():
        if not LEVEL_VALUE.fullmatch(value) or value != value.lower():
            raise InvalidArgumentError(
                f"--{level} must be 1 to 128 lower-case letters, digits, '_', '.' or '-': correct it."
            )
    if settings.is_remote and given["tenant"] != settings.subject.tenant:
        raise InvalidArgumentError(
            f"CYCLES_API_KEY speaks for the tenant {settings.subject.tenant} alone: leave --tenant out."
        )
    return given


def _tools(text: str) -> frozenset[str] | None:
    if not text:
        return None
    from budget_server.mcp_server.server import TOOLS  # here: other commands do not need MCP

    named, known = frozenset(name.strip() for name in text.split(",")), {tool.name for tool in TOOLS}
    unknown = sorted(named - known)
    if unknown:
        raise InvalidArgumentError(f"There is no tool {unknown[0]!r}: the tools are {', '.join(sorted(known))}.")
    return named


def _lifetime_ms(text: str) -> int | None:
    if not text:
        return None
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(f"--expires {text!r} is no time: give days or hours, such as 90d or 12h.")
    return int(match[1]) * _HOUR_MS * (24 if match[2] == "d" else 1)


def _spender(token: AccessToken) -> str:
    return "/".join(f"{level}:{value}" for level, value in token.grant.levels.items())


def _state(token: AccessToken) -> str:
    if token.revoked_at_ms is not None:
        return f"revoked {date_text(token.revoked_at_ms)}"
    if token.expires_at_ms is None:
        return "good"
    return f"{'good until' if token.is_good(wall_ms()) else 'expired'} {date_text(token.expires_at_ms)}"
