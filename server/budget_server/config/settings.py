"""Every setting of this server, read once from the environment, and documented where it is defined."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from budget_server.config.paths import absolute_path
from budget_server.config.urls import is_protected
from budget_tools.claude.endpoint import (
    DEFAULT_BASE_URL,
    Endpoint,
    checked_base_url,
    checked_credential,
    parsed_headers,
)
from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.core.money import parse_usd
from budget_tools.core.scopes import LEVEL_VALUE, LEVELS
from budget_tools.core.subjects import Subject

LOCAL_TENANT = "local"
"""The tenant of an embedded ledger if ``CYCLES_TENANT`` names none."""


def _dollars(value: object) -> int | None:
    try:
        return None if value is None else parse_usd(value, name="it")
    except InvalidArgumentError as exc:
        raise ValueError(exc.message) from exc


_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, section 3.3


def _words(value: object) -> object:
    return tuple(re.split(r"[\s,]+", value.strip(" ,"))) if isinstance(value, str) else value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [word.partition("=") for word in re.split(r"[\s,]+", value.strip(" ,"))]
    levels = [level for level, _, _ in pairs]
    if not all(level in LEVELS and claim for level, _, claim in pairs) or len(set(levels)) < len(levels):
        raise ValueError(f"must be LEVEL=CLAIM, or several with commas, each level once: {', '.join(LEVELS)}")
    return {level: claim for level, _, claim in pairs}


def _path(value: object) -> object:
    return absolute_path(value) if isinstance(value, str) else value


AbsolutePath = Annotated[Path, BeforeValidator(_path)]

_UNEXPANDED = re.compile(r"\$\{[^{}]*\}|^\$[A-Za-z_]\w*$")
_PATHS = frozenset({"budget_data_dir", "budget_subagent_servers", "budget_prices"})
_LEFT_BLANK = re.compile(r"\$\{user_config\.\w+\}")
"""The text that some hosts send for a field of an extension's form that a person left blank."""


def _is_left_blank(value: object) -> bool:
    return isinstance(value, str) and _LEFT_BLANK.fullmatch(value.strip()) is not None


class Settings(BaseSettings):
    """The environment variables of this server; each field's name in capitals is the variable's.

    Hosts often pass an empty string for a field that a person left blank: that counts as not set.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True)

    cycles_base_url: str = Field("", description="A Cycles server; without it, budgets live in this machine's ledger.")
    cycles_api_key: SecretStr = Field(SecretStr(""), description="API key of that server.")
    cycles_tenant: str = Field("", description="Tenant that spends; required with CYCLES_BASE_URL, else 'local'.")
    cycles_workspace: str = Field("", description="Workspace that spends, if any.")
    cycles_app: str = Field("", description="App that spends, if any.")
    cycles_workflow: str = Field("", description="Workflow that spends, if any.")
    cycles_agent: str = Field("", description="Agent that spends, if any.")
    cycles_toolset: str = Field("", description="Toolset that spends, if any.")

    anthropic_api_key: SecretStr = Field(SecretStr(""), description="Key of the Claude API, for delegate_to_claude.")
    anthropic_auth_token: SecretStr = Field(
        SecretStr(""), description="Bearer token of a gateway before that API, instead of a key or beside one."
    )
    anthropic_base_url: str = Field(
        DEFAULT_BASE_URL, description="Where the Claude API, or a gateway to it, is: what stands before /v1/messages."
    )
    anthropic_custom_headers: SecretStr = Field(
        SecretStr(""), description="Headers that a gateway wants beside: lines of Name: value."
    )

    budget_usd: Annotated[int | None, BeforeValidator(_dollars)] = Field(
        None, description="First budget of a new ledger, in dollars such as 5 or 0.50; ignored once there is one."
    )
    budget_period: Literal["none", "day", "week", "month"] = Field(
        "none", description="How often that budget starts anew: none, day, week (from Monday) or month."
    )
    budget_time_zone: str = Field(
        "", description="Where its days begin, such as Europe/Berlin; this machine's own time zone if left out."
    )
    budget_data_dir: AbsolutePath = Field(
        default_factory=lambda: platformdirs.user_data_path("cycles-budget-mcp", appauthor=False),
        description="Directory of the ledger and of what must survive a crash.",
    )
    budget_model: str = Field("claude-sonnet-5-5", description="Model of a delegation that names none.")
    budget_subagent_servers: AbsolutePath | None = Field(
        None, description="mcpServers JSON file: the MCP servers whose tools a delegation may be given."
    )
    budget_delegation_minutes: Annotated[int, Field(gt=0)] = Field(
        60, description="How long a delegation may run at a stretch before it has to give its last answer."
    )
    budget_on_disconnect: Literal["cancel", "detach"] = Field(
        "cancel", description="What becomes of a delegation whose host gives up waiting: cancel, or detach to go on."
    )
    budget_keep_days: Annotated[int, Field(gt=0)] = Field(
        30, description="How long a stopped delegation, its conversation included, is kept to be shown or resumed."
    )
    budget_max_delegations: Annotated[int, Field(gt=0)] = Field(
        64, description="Most delegations that run at once, in all processes of one BUDGET_DATA_DIR."
    )
    budget_max_depth: Annotated[int, Field(gt=0)] = Field(
        3, description="How deep delegations may be nested: 1 allows none from within another."
    )
    budget_depth: Annotated[int, Field(ge=0)] = Field(
        0, description="How deep this process is nested; a delegation sets it for the servers of its tools."
    )
    budget_confirm_usd: Annotated[int | None, BeforeValidator(_dollars)] = Field(
        None, description="A delegation that may spend more than these dollars is first confirmed by a person."
    )
    budget_raise_to_usd: Annotated[int | None, BeforeValidator(_dollars)] = Field(
        None,
        description="Where a call is denied, a person may raise this machine's budget to these dollars at most.",
    )
    budget_tools: str = Field(
        "all", description="Which tools hosts see: core, all, names of tools, or several with commas."
    )
    budget_prices: AbsolutePath | None = Field(None, description="TOML file of prices that override the built-in ones.")

    budget_oauth_issuer: str = Field(
        "",
        description="An OAuth authorization server whose access tokens are taken over HTTP: its issuer identifier.",
    )
    budget_oauth_audience: str = Field(
        "", description="Who its tokens must be for: the URL that clients reach this server by (RFC 8707)."
    )
    budget_oauth_jwks_url: str = Field("", description="Where its keys are; found in its metadata if left out.")
    budget_oauth_scopes: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        (), description="Scopes that each of its tokens must have, with commas or spaces between."
    )
    budget_oauth_delegate_scope: str = Field(
        "", description="Scope that a token must have to delegate; every token may if left out."
    )
    budget_oauth_subject: Annotated[Mapping[str, str], NoDecode, BeforeValidator(_pairs)] = Field(
        {}, description="Which claims say who spends, such as tenant=org_id,agent=client_id; else this server's tenant."
    )
    budget_oauth_ceiling_usd: Annotated[int | None, BeforeValidator(_dollars)] = Field(
        None, description="Most that each delegation of a client with such a token may spend, in dollars."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_blanks_of_a_form(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not _is_left_blank(value)}

    @field_validator("*", mode="before")
    @classmethod
    def _expanded(cls, value: object, info: ValidationInfo) -> object:
        left = _UNEXPANDED.search(value) if isinstance(value, str) and info.field_name not in _PATHS else None
        if left is not None:
            raise ValueError(
                f"must be written out: {left.group()} in it was not replaced, since most hosts pass such text on as it "
                "is"
            )
        return value

    @field_validator("cycles_api_key", "anthropic_api_key", "anthropic_auth_token")
    @classmethod
    def _credential(cls, value: SecretStr) -> SecretStr:
        checked_credential(value.get_secret_value())
        return value

    @field_validator("cycles_base_url", "anthropic_base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return checked_base_url(value) if value else value

    @field_validator("anthropic_custom_headers")
    @classmethod
    def _headers(cls, value: SecretStr) -> SecretStr:
        parsed_headers(value.get_secret_value())
        return value

    @field_validator(*(f"cycles_{level}" for level in LEVELS))
    @classmethod
    def _level(cls, value: str) -> str:
        if value and not LEVEL_VALUE.fullmatch(value):
            raise ValueError("must be 1 to 128 letters, digits, '_', '.' or '-'")
        return value

    @field_validator("budget_oauth_issuer", "budget_oauth_audience", "budget_oauth_jwks_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not is_protected(value):
            raise ValueError("must be an https address, or an http one of this machine")
        return value

    @field_validator("budget_oauth_issuer", "budget_oauth_audience")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if "?" in value:
            raise ValueError("must be an address without a query")
        return value

    @field_validator("budget_oauth_scopes")
    @classmethod
    def _scope_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SCOPE.fullmatch(scope) for scope in value):
            raise ValueError("must be names of scopes, with commas or spaces between")
        return value

    @field_validator("budget_oauth_delegate_scope")
    @classmethod
    def _scope_name(cls, value: str) -> str:
        if value and not _SCOPE.fullmatch(value):
            raise ValueError("must be the name of one scope")
        return value

    @field_validator("budget_time_zone")
    @classmethod
    def _time_zone(cls, value: str) -> str:
        from budget_server.config.time_zones import is_time_zone  # here: few starts need the time zone database

        if value and not is_time_zone(value):
            raise ValueError("must be an IANA time zone such as Europe/Berlin")
        return value

    @property
    def time_zone(self) -> str:
        """The time zone in which days begin.

        Raises:
            ConfigurationError: no time zone is set, and this machine's own has no name.
        """
        from budget_server.config.time_zones import local_time_zone

        return self.budget_time_zone or local_time_zone()

    @property
    def is_remote(self) -> bool:
        """Whether budgets live on a Cycles server."""
        return bool(self.cycles_base_url)

    @property
    def claude_endpoint(self) -> Endpoint:
        """The endpoint of the Claude API, with the credential for it."""
        return Endpoint(
            base_url=self.anthropic_base_url,
            api_key=self.anthropic_api_key.get_secret_value(),
            auth_token=self.anthropic_auth_token.get_secret_value(),
            headers=parsed_headers(self.anthropic_custom_headers.get_secret_value()),
        )

    @property
    def subject(self) -> Subject:
        """The default subject of all spend."""
        levels = {level: str(getattr(self, f"cycles_{level}")) for level in LEVELS}
        return Subject({**levels, "tenant": levels["tenant"] or LOCAL_TENANT})


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: one sentence naming the variable, without its value.
    """
    try:
        settings = Settings()
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        variable = str(error["loc"][0]).upper()
        problem = error["msg"].removeprefix("Value error, ").removeprefix("it ")
        raise ConfigurationError(f"{variable} is wrong: {problem}") from None
    if settings.is_remote and not settings.cycles_api_key.get_secret_value():
        raise ConfigurationError("CYCLES_API_KEY is not set: a Cycles server (CYCLES_BASE_URL) needs one.")
    if settings.is_remote and not settings.cycles_tenant:
        raise ConfigurationError("CYCLES_TENANT is not set: a Cycles server finds no budget without it.")
    _check_oauth(settings)
    return settings


def _check_oauth(settings: Settings) -> None:
    """Refuse a partial configuration: settings without an issuer would never require a token."""
    given = [name for name in settings.model_fields_set if name.startswith("budget_oauth_")]
    if given and not settings.budget_oauth_issuer:
        raise ConfigurationError(f"BUDGET_OAUTH_ISSUER is not set: {min(given).upper()} says nothing without it.")
    if given and not settings.budget_oauth_audience:
        raise ConfigurationError(
            "BUDGET_OAUTH_AUDIENCE is not set: without it, tokens that were given for other servers would be taken."
        )
