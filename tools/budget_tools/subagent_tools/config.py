"""The file that names the servers of a sub-agent's tools: ``mcpServers`` as hosts write it, with prices of our own.

Errors within the file are raised when it is read, at startup. Values from the environment (``${VAR}``) are looked up
when a server is first needed, and no error shows a value: it may be a secret.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from budget_tools.core.errors import ConfigurationError
from budget_tools.core.money import MAX_AMOUNT, USD_MICROCENTS, UsdMicrocents

RISK_POINTS = "RISK_POINTS"

EVERY_OTHER_TOOL = "*"

MIN_TIMEOUT_MS = 1_000
"""A smaller ``timeout`` is ignored, as in Claude Code: it was meant in seconds, for another host."""

Transport = Literal["stdio", "sse", "http"]

_TRANSPORTS: Mapping[str, Transport] = {"stdio": "stdio", "sse": "sse", "http": "http", "streamablehttp": "http"}

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ToolPrice:
    """The price of one call of a tool: ``amount`` counts ``unit``, which is USD_MICROCENTS or RISK_POINTS."""

    unit: str
    amount: int


class _PriceEntry(BaseModel):
    """A price as it is written: dollars or risk points. An unknown key would make calls free, so it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd: UsdMicrocents = None
    risk_points: Annotated[int | None, Field(strict=True, gt=0, le=MAX_AMOUNT)] = None

    @model_validator(mode="after")
    def _is_one_price(self) -> "_PriceEntry":
        if (self.usd is None) == (self.risk_points is None):
            raise ValueError("give either usd or risk_points.")
        return self

    @property
    def price(self) -> ToolPrice | None:
        """The price; ``None`` if a call costs nothing."""
        if self.risk_points is not None:
            return ToolPrice(RISK_POINTS, self.risk_points)
        return ToolPrice(USD_MICROCENTS, self.usd) if self.usd else None


class PriceList(BaseModel):
    """Prices of calls of a server's tools, by tool; ``*`` is every tool that is not named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: dict[str, _PriceEntry] = {}

    def price(self, tool: str) -> ToolPrice | None:
        """Return the price of a call of a tool; ``None`` if it costs nothing."""
        entry = self.tools.get(tool) or self.tools.get(EVERY_OTHER_TOOL)
        return entry.price if entry is not None else None

    @property
    def named(self) -> frozenset[str]:
        """The tools that have a price of their own."""
        return frozenset(self.tools) - {EVERY_OTHER_TOOL}


def _transport(value: object) -> Transport:
    """Read a transport in any of the spellings that hosts use: streamable-http, streamableHttp, streamable_http."""
    known = _TRANSPORTS.get(re.sub("[-_ ]", "", value).lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError("the transports are stdio, sse and http (streamable-http).")
    return known


class ServerEntry(BaseModel):
    """An entry of ``mcpServers``; keys that hosts add are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    command: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = {}
    declared: Annotated[
        Transport | None, BeforeValidator(_transport), Field(validation_alias=AliasChoices("type", "transport"))
    ] = None
    timeout: Annotated[int | None, Field(strict=True, gt=0)] = None
    """Longest wait for a call, in milliseconds."""

    budget: PriceList = PriceList()

    @model_validator(mode="after")
    def _is_one_server(self) -> "ServerEntry":
        if bool(self.command) == bool(self.url):
            both = "it has both command and url" if self.command else "it has neither command nor url"
            raise ValueError(f"{both}: give a command for a server over stdio, or the url of one over HTTP.")
        if self.declared is not None and (self.declared == "stdio") != bool(self.command):
            needed = "a command" if self.declared == "stdio" else "a url"
            raise ValueError(f"its type is {self.declared}, which needs {needed}.")
        return self

    @property
    def transport(self) -> Transport:
        """The transport of the server; a url without a declared type is streamable HTTP."""
        return self.declared or ("stdio" if self.command else "http")

    @property
    def timeout_seconds(self) -> float | None:
        """Longest wait for a call, if the entry sets one."""
        return self.timeout / 1_000 if self.timeout is not None and self.timeout >= MIN_TIMEOUT_MS else None

    def expanded(self, name: str, environment: Mapping[str, str]) -> "ServerEntry":
        """Return the entry with its variables, ``${VAR}`` and ``${VAR:-default}``, expanded as in ``.mcp.json``.

        Raises:
            ConfigurationError: a variable without default is not set.
        """

        def put_in(text: str) -> str:
            return _VARIABLE.sub(value_of, text)

        def value_of(match: re.Match[str]) -> str:
            value = environment.get(match[1], match[2])
            if value is None:
                raise ConfigurationError(
                    f"MCP server {name!r} needs the environment variable {match[1]}, which is not set: "
                    f"set it where this server runs, or write ${{{match[1]}:-default}}."
                )
            return value

        return self.model_copy(
            update={
                "command": put_in(self.command),
                "args": [put_in(argument) for argument in self.args],
                "env": {variable: put_in(value) for variable, value in self.env.items()},
                "cwd": None if self.cwd is None else put_in(self.cwd),
                "url": put_in(self.url),
                "headers": {header: put_in(value) for header, value in self.headers.items()},
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServersFile:
    """The content of a file, and where it is: ``origin`` is for errors."""

    origin: str
    entries: Mapping[str, ServerEntry]
    disabled: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path | None) -> "ServersFile":
        """Read an ``mcpServers`` JSON file; without one there are no servers.

        Raises:
            ConfigurationError: the file cannot be read, or has another format.
        """
        if path is None:
            return cls(origin="BUDGET_SUBAGENT_SERVERS is not set", entries={})
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"BUDGET_SUBAGENT_SERVERS: {path} cannot be read ({reason}).") from exc
        try:
            document = _Document.model_validate(_parse(text))
            entries = {name: entry for name, entry in document.mcpServers.items() if entry is not None}
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError(
                f"BUDGET_SUBAGENT_SERVERS: {path} is not an mcpServers file: {_problem(exc)}"
            ) from exc
        return cls(origin=str(path), entries=entries, disabled=frozenset(document.mcpServers) - frozenset(entries))


def _unless_disabled(value: object) -> object:
    """Skip the validation of a disabled entry: it counts as absent, whatever else it holds."""
    return None if isinstance(value, dict) and value.get("disabled") is True else value


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")

    mcpServers: dict[str, Annotated[ServerEntry | None, BeforeValidator(_unless_disabled)]]  # noqa: N815 - the hosts' spelling


def _parse(text: str) -> object:
    """Parse JSON without a float, which would round a price, and without a repeated key, which would hide one."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_once_each)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON.")


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice in one place.")
    return found


def _problem(exc: Exception) -> str:
    """Return the first problem, without the file's own values."""
    if isinstance(exc, ValidationError):
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
