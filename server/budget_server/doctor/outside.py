"""Checks of external parts: a sub-agent's tools, the Claude API, and the hosts that start this server."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget_server.config.paths import absolute_path
from budget_server.config.settings import Settings
from budget_server.doctor.finding import Finding, ok, problem, warning
from budget_server.hosts.config_file import HostFile
from budget_server.hosts.entry import is_ours
from budget_server.hosts.json_edit import read_object
from budget_server.hosts.registry import HOSTS, Host, user_file
from budget_tools.core.errors import BudgetError, ConfigurationError, InvalidArgumentError, IssuerUnavailableError
from budget_tools.core.network import check_route
from budget_tools.subagent_tools.config import ServersFile

if TYPE_CHECKING:
    from budget_tools.subagent_tools.toolbox import Toolbox


def tools(settings: Settings, *, starts_servers: bool) -> Iterator[Finding]:
    """Check that the tools file can be read, and with ``starts_servers`` report what each of its servers offers."""
    if settings.budget_subagent_servers is None:
        yield ok("No tools for sub-agents (BUDGET_SUBAGENT_SERVERS)")
        return
    try:
        file = ServersFile.read(settings.budget_subagent_servers)
    except ConfigurationError as exc:
        yield problem(exc.message)
        return
    names = ", ".join(file.entries) or "none"
    untried = "" if starts_servers or not file.entries else "; --servers starts each and asks for its tools"
    yield ok(f"Servers of tools in {file.origin}: {names}{untried}")
    if starts_servers:
        yield from asyncio.run(_servers(settings, list(file.entries)))


async def _servers(settings: Settings, names: list[str]) -> list[Finding]:
    from budget_tools.subagent_tools.toolbox import Toolbox  # here: only --servers needs an MCP client

    depth = {"BUDGET_DEPTH": str(settings.budget_depth + 1)}
    toolbox = Toolbox.load(settings.budget_subagent_servers, child_environment=depth)
    try:
        return list(await asyncio.gather(*(_server(toolbox, name) for name in names)))
    finally:
        await toolbox.aclose()


async def _server(toolbox: "Toolbox", name: str) -> Finding:
    try:
        offered = await toolbox.open([f"{name}__*"])
    except BudgetError as exc:
        return problem(f"The server {name!r}: {exc}")
    return ok(f"The server {name!r} offers {', '.join(tool.removeprefix(f'{name}__') for tool in offered)}")


def claude(settings: Settings, *, is_online: bool) -> Iterator[Finding]:
    """Check that a credential is set and requests can be sent, and if ``is_online`` that the API accepts them."""
    endpoint = settings.claude_endpoint
    if not endpoint.has_credential:
        yield warning(
            "ANTHROPIC_API_KEY is not set, nor is ANTHROPIC_AUTH_TOKEN: nothing can be delegated; all else works."
        )
        return
    try:
        check_route(endpoint.base_url)
    except ConfigurationError as exc:
        yield problem(f"Nothing can reach the Claude API: {exc.message}")
        return
    if is_online:
        from budget_server.doctor.messages_api import ask

        yield asyncio.run(ask(endpoint, settings.budget_model))
    else:
        yield ok(f"{endpoint.credential} is set; --online proves it with one request, free of charge")


def issuer(settings: Settings, *, is_online: bool) -> Iterator[Finding]:
    """Report whose access tokens are accepted over HTTP; with ``is_online``, check that their issuer has its keys."""
    url = settings.budget_oauth_issuer
    if not url:
        return
    taken = f"Access tokens of {url} for {settings.budget_oauth_audience} are taken over HTTP"
    if "tenant" not in settings.budget_oauth_subject:
        taken += f", all as the tenant {settings.subject.tenant}"
    yield ok(taken if is_online else f"{taken}; --online asks for its keys")
    if is_online:
        from budget_server.auth.issuer import Issuer  # here: it imports cryptography

        try:
            keys = asyncio.run(Issuer(url, jwks_url=settings.budget_oauth_jwks_url).read())
        except IssuerUnavailableError as exc:
            yield problem(f"{exc.message.rstrip('.')}: no client with one of its tokens can be let in.")
        else:
            yield ok(f"The OAuth issuer {url} publishes {len(keys)} keys that check signatures")


def hosts(settings: Settings | None) -> Iterator[Finding]:
    """Report the hosts that register this server, and whether each entry can start."""
    registered = 0
    for file, host in _host_files().items():
        try:
            entries = _entries(host, read_object(HostFile.read(file).text))
        except InvalidArgumentError as exc:
            yield warning(f"{host.title}: {file} {exc}, so nothing is known of it.")
            continue
        except ConfigurationError as exc:
            yield warning(f"{host.title}: {exc.message}")
            continue
        for name, entry in entries:
            if is_ours(entry):
                registered += 1
                yield _registration(f"{host.title}: {name!r} in {file}", host, entry, settings)
    if not registered:
        hosts = ", ".join(HOSTS)
        yield warning(f"No host has this server yet: run `cycles-budget-mcp install HOST`, with one of {hosts}.")


def _entries(host: Host, content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the servers in a host's file, for every project and for the one in this directory."""
    projects = content.get(host.projects)
    project = projects.get(str(Path.cwd())) if isinstance(projects, dict) else None
    holders = [content, project if isinstance(project, dict) else {}]
    containers = [holder.get(host.container) for holder in holders]
    return [each for container in containers if isinstance(container, dict) for each in container.items()]


def _host_files() -> dict[Path, Host]:
    """Return the files of the installed hosts, and of the project in this directory."""
    found: dict[Path, Host] = {}
    for host in HOSTS.values():
        path, is_installed = user_file(host, os.environ, Path.home())
        in_project = Path.cwd() / host.project_file
        if is_installed:
            found[path] = host
        if in_project.is_file():
            found[in_project] = host
    return found


def _registration(where: str, host: Host, entry: dict[str, Any], settings: Settings | None) -> Finding:
    command = Path(str(entry.get("command", "")))
    mend = f"run `cycles-budget-mcp install {host.key}`."
    if not command.is_absolute():
        return warning(f"{where} starts {command} by its name alone, which a host may not find: {mend}")
    if not (command.is_file() and os.access(command, os.X_OK)):
        return problem(f"{where} starts {command}, which is not there: {mend}")
    if entry.get("disabled") is True:
        return warning(f"{where} is disabled: enable it in the host.")
    variables = entry.get("env")
    elsewhere = variables.get("BUDGET_DATA_DIR") if isinstance(variables, dict) else None
    try:
        is_here = settings is None or not elsewhere or absolute_path(str(elsewhere)) == settings.budget_data_dir
    except ValueError as exc:
        return problem(f"{where} cannot start: BUDGET_DATA_DIR is wrong there: {exc}.")
    if not is_here:
        return warning(f"{where} keeps its ledger in {elsewhere}: set BUDGET_DATA_DIR so here, to look at that one.")
    if settings is not None and not elsewhere and os.environ.get("BUDGET_DATA_DIR"):
        unless = f" unless {host.title} is started with it" if host.shares_environment else ""
        return warning(
            f"{where} has no BUDGET_DATA_DIR, which is set here: it keeps another ledger than this one{unless}."
        )
    return ok(f"{where} starts {command}")
