"""The command ``cycles-budget-mcp install``: registers this server in a host, after showing the change."""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from budget_server.cli.common import cli_errors
from budget_server.config.settings import Settings
from budget_server.hosts.config_file import HostFile
from budget_server.hosts.entry import HIDDEN, hidden, is_ours, is_secret, renewed, showable
from budget_server.hosts.json_edit import put, read_object, take, value_at
from budget_server.hosts.registry import ANY_HOST, HOSTS, Host, find_host, user_file
from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.core.money import parse_usd

API_KEY = "ANTHROPIC_API_KEY"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MAX_LINE_CHARACTERS = 400

Write = Callable[[str], None]
"""A function that replaces the file's text, or ends the command if the change is not wanted."""


def install(
    host: Annotated[str, typer.Argument(help=f"One of {', '.join(HOSTS)}.", show_default=False)] = "",
    name: Annotated[str, typer.Option(help="What the host calls this server.")] = "budget",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="KEY=VALUE", help="A setting to give the server; may be repeated."),
    ] = None,
    budget_usd: Annotated[
        str | None, typer.Option(help="The first budget, in dollars such as 5 or 0.50.", show_default=False)
    ] = None,
    with_api_key: Annotated[
        bool, typer.Option("--with-api-key", help=f"Write the {API_KEY} of this environment into the host's file.")
    ] = False,
    project: Annotated[bool, typer.Option("--project", help="Only for the project in this directory.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="The host's file, if it is elsewhere.", show_default=False)
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Make the file's directory if there is none.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take our entry out again.")] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the entry for any host, and write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Register this server in a host's configuration file: the change is shown first, and a copy is kept.

    Exit code 1 means that there is a change which was not written.
    """
    with cli_errors():
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError("--name must be 1 to 64 letters, digits, '_' or '-'.")
        variables = _variables(env or [], budget_usd, with_api_key=with_api_key)
        if only_print:
            _print_entry(find_host(host) if host else ANY_HOST, name, variables)
            return
        known = find_host(host)
        file = HostFile.read(_path(known, config, project=project, create=create))
        write = partial(_write, file, yes=yes, create=create)
        if undo:
            _undo(known, name, file, write)
        else:
            _install(known, name, file, variables, write)


def _install(host: Host, name: str, file: HostFile, variables: dict[str, str], write: Write) -> None:
    before = _ours(host, name, file)
    entry = renewed(before, host, variables)
    if entry == before:
        typer.echo(f"There is nothing to change in {file.path}.")
        return
    known = before["env"] if before is not None and isinstance(before.get("env"), dict) else {}
    secrets = frozenset(key for key, value in variables.items() if known.get(key) != value)
    after = put(file.text, host.keys(name), entry)
    _show(host, name, file, after, secrets)
    _say_what_is_missing(host, entry)
    if written := _secrets(entry):
        open_to = ", which others on this machine can read" if file.is_open_to_others else ""
        typer.echo(f"{' and '.join(written)} will stand in that file, in plain text{open_to}.")
    write(after)
    typer.echo(host.afterwards)


def _undo(host: Host, name: str, file: HostFile, write: Write) -> None:
    entry = _ours(host, name, file)
    if entry is None:
        typer.echo(f"There is nothing of ours to take out of {file.path}.")
        return
    keys = host.keys(name)
    # If a copy equals the previous file to the letter, the copy's content is restored: with the empty object, or
    # without it.
    was = (copy for copy in file.copies() if _is_before(copy, file.text, host, name, entry))
    before = next(was, None)
    after = take(file.text, keys) if before is None else before
    _show(host, name, file, after, frozenset())
    write(after)
    if secrets := _secrets(entry):
        typer.echo(f"That copy still holds {' and '.join(secrets)}: delete it when it is no longer needed.")


def _is_before(copy: str, now: str, host: Host, name: str, entry: dict[str, Any]) -> bool:
    try:
        return value_at(copy, host.keys(name)) is None and put(copy, host.keys(name), entry) == now
    except InvalidArgumentError:
        return False


def _ours(host: Host, name: str, file: HostFile) -> dict[str, Any] | None:
    """Return our entry in the file, if it exists.

    Raises:
        ConfigurationError: the file cannot be understood, or the name belongs to another server.
    """
    try:
        entry = value_at(file.text, host.keys(name))
    except InvalidArgumentError as exc:
        raise ConfigurationError(
            f"{file.path} {exc}, and is left as it is: `cycles-budget-mcp install {host.key} --print` prints the entry "
            "to write by hand."
        ) from exc
    if entry is not None and not is_ours(entry):
        raise ConfigurationError(f"{name!r} in {file.path} is another server: choose a name of ours with --name.")
    return entry


def _variables(pairs: list[str], budget_usd: str | None, *, with_api_key: bool) -> dict[str, str]:
    variables: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (separator and _VARIABLE.fullmatch(key)):
            raise InvalidArgumentError("--env must be KEY=VALUE, such as --env BUDGET_PERIOD=day.")
        variables[key] = value
    if budget_usd is not None:
        parse_usd(budget_usd, name="--budget-usd")
        variables["BUDGET_USD"] = budget_usd
    if with_api_key:
        if not os.environ.get(API_KEY):
            raise ConfigurationError(f"{API_KEY} is not set here, so --with-api-key has nothing to write.")
        variables[API_KEY] = os.environ[API_KEY]
    return variables


def _path(host: Host, config: Path | None, *, project: bool, create: bool) -> Path:
    if config is not None and project:
        raise InvalidArgumentError("Give either --config or --project.")
    if project and not host.project_file:
        raise InvalidArgumentError(f"{host.title} has no file for a single project.")
    if config is None and not project:
        path, is_installed = user_file(host, os.environ, Path.home())
    else:
        path = (config or Path.cwd() / host.project_file).absolute()
        is_installed = path.parent.is_dir()
    if not (is_installed or create):
        missing = f"There is no {path.parent}" if config or project else f"{host.title} is not installed for this user"
        raise ConfigurationError(f"{missing}, so {path} is not written: --create makes it nevertheless.")
    return path


def _print_entry(host: Host, name: str, variables: dict[str, str]) -> None:
    entry = renewed(None, host, variables)
    shown = hidden(entry)
    typer.echo(json.dumps({host.container: {name: shown}}, ensure_ascii=False, indent=2))
    if shown != entry:
        typer.echo(f"Write the values in place of {HIDDEN}.", err=True)


def _say_what_is_missing(host: Host, entry: dict[str, Any]) -> None:
    """Name the settings that are set here but will not be, or may not be, when the host starts the server."""
    if not entry["env"].get(API_KEY) and not entry["env"].get("ANTHROPIC_AUTH_TOKEN"):
        lack = f"The server will have no {API_KEY}, so it cannot delegate"
        if host.shares_environment and API_KEY not in entry["env"]:
            lack = (
                f"The server will have the {API_KEY} that {host.title} is started with; without one it cannot delegate"
            )
        typer.echo(f"{lack}: --with-api-key writes the one of this environment; all else works without.")
    here = [key.upper() for key in Settings.model_fields if os.environ.get(key.upper())]
    absent = [key for key in here if key not in entry["env"] and key != API_KEY]
    if absent:
        reach = "for the host, which passes on only what --env gives it"
        if host.shares_environment:
            reach = f"in the entry, so they count only where {host.title} is started with them"
        typer.echo(f"Set here, but not {reach}: {', '.join(absent)}.")


def _show(host: Host, name: str, file: HostFile, after: str, new_secrets: frozenset[str]) -> None:
    keys = host.keys(name)
    for line in _difference(showable(file.text, keys), showable(after, keys, new_secrets), str(file.path)):
        typer.echo(line)


def _difference(before: str, after: str, path: str) -> Iterator[str]:
    def lines(text: str) -> list[str]:
        found = text.splitlines()
        if all(len(line) <= _MAX_LINE_CHARACTERS for line in found) and len(found) > 1:
            return found
        return json.dumps(read_object(text), ensure_ascii=False, indent=2).splitlines() if text.strip() else found

    names = (path, f"{path} (new)")
    yield from difflib.unified_diff(lines(before), lines(after), *names, lineterm="")


def _secrets(entry: dict[str, Any]) -> list[str]:
    variables = entry["env"] if isinstance(entry.get("env"), dict) else {}
    return [key for key, value in variables.items() if value and is_secret(key)]


def _write(file: HostFile, text: str, *, yes: bool, create: bool) -> None:
    """Write the text that was shown, if the user agrees.

    Raises:
        typer.Exit: the user does not agree; exit code 1.
    """
    if not yes:
        if not sys.stdin.isatty():
            typer.echo("Nothing was written: there is nobody to ask. Add --yes to write it.")
            raise typer.Exit(1)
        if not typer.confirm(f"Write {file.path}?"):
            typer.echo("Nothing was written.")
            raise typer.Exit(1)
    copy = file.replace(text, may_make_directory=create)
    typer.echo(f"{file.path} is written; what it was is in {copy.name} beside it." if copy else f"{file.path} is made.")
