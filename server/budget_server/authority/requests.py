"""Strict models of what the protocol's operations accept, checked before any transaction opens.

They are stricter than the reference server, which reads ``"5"`` and ``5.7`` as 5: here an integer is an integer, and an
unknown field is refused by name (Cycles v0, additionalProperties: false).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import to_json

from budget_server.authority.refusals import Refusal
from budget_tools.core.scopes import LEVEL_VALUE, LEVELS, derive_scopes

MAX_AMOUNT = 2**63 - 1
DEFAULT_GRACE_MS = 5_000
MAX_KEY_CHARACTERS = 256

Unit = Literal["USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"]
OveragePolicy = Literal["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"]

# Built on first use: a start should not wait for models that most conversations never need.
_Wire = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def _level(value: str) -> str:
    if not LEVEL_VALUE.fullmatch(value):
        raise ValueError("must be 1 to 128 letters, digits, '_', '.' or '-'")
    return value


def _not_blank(value: str) -> str:
    if all(character <= " " or character.isspace() for character in value):
        raise ValueError("must not be blank")
    return value


Level = Annotated[str, AfterValidator(_level)]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARACTERS)]
Count = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]


class Amount(BaseModel):
    """A whole number of a unit."""

    model_config = _Wire
    unit: Unit
    amount: Count


class Caps(BaseModel):
    """The limits that a budget sets for its callers, besides the amount."""

    model_config = _Wire
    max_tokens: Count | None = None
    max_steps_remaining: Count | None = None
    tool_allowlist: list[Annotated[str, Field(max_length=256)]] | None = None
    tool_denylist: list[Annotated[str, Field(max_length=256)]] | None = None
    cooldown_ms: Count | None = None


class Subject(BaseModel):
    """The spender: at least one of the six levels; dimensions are stored but move no budget."""

    model_config = _Wire
    tenant: Level | None = None
    workspace: Level | None = None
    app: Level | None = None
    workflow: Level | None = None
    agent: Level | None = None
    toolset: Level | None = None
    dimensions: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _names_a_level(self) -> "Subject":
        if not any(getattr(self, level) for level in LEVELS):
            raise ValueError(f"must name at least one of {', '.join(LEVELS)}")
        return self

    def scopes(self) -> tuple[str, ...]:
        """Return the paths that this subject draws on, root to leaf."""
        return derive_scopes(vars(self))


class Action(BaseModel):
    """The action about to be done, for reports and policies."""

    model_config = _Wire
    kind: Annotated[str, Field(max_length=64), AfterValidator(_not_blank)]
    name: Annotated[str, Field(max_length=256), AfterValidator(_not_blank)]
    tags: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=10)] | None = None


class Metrics(BaseModel):
    """The resources that the work took, as the client measured them."""

    model_config = _Wire
    tokens_input: Count | None = None
    tokens_output: Count | None = None
    latency_ms: Count | None = None
    model_version: Annotated[str, Field(max_length=128)] | None = None
    custom: dict[str, Any] | None = None


class Request(BaseModel):
    """The fields common to every operation that changes something."""

    model_config = _Wire
    idempotency_key: Key
    _payload_sha256: bytes = PrivateAttr(b"")

    @property
    def payload_sha256(self) -> bytes:
        """The hash of the canonical JSON, which distinguishes a repeated request from another one under the same key.

        The protocol's defaults are filled in, so that neither the order of keys nor an explicit default makes a
        difference (Cycles v0, IDEMPOTENCY).
        """
        return self._payload_sha256

    def note_payload(self, canonical: bytes) -> None:
        """Store the canonical text that this was read from."""
        self._payload_sha256 = hashlib.sha256(canonical).digest()


class _Intent(Request):
    subject: Subject
    action: Action
    estimate: Amount
    metadata: dict[str, Any] | None = None


class DecideRequest(_Intent):
    """POST /v1/decide: would this be allowed?"""


class ReserveRequest(_Intent):
    """POST /v1/reservations: reserve the estimate, or with ``dry_run`` only ask."""

    ttl_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] | None = None
    grace_period_ms: Annotated[int, Field(ge=0, le=60_000)] = DEFAULT_GRACE_MS
    overage_policy: OveragePolicy | None = None
    dry_run: bool = False


class CommitRequest(Request):
    """POST /v1/reservations/{id}/commit: settle with the amount used."""

    actual: Amount
    metrics: Metrics | None = None
    metadata: dict[str, Any] | None = None


class ReleaseRequest(Request):
    """POST /v1/reservations/{id}/release: give the whole estimate back."""

    reason: Annotated[str, Field(max_length=256)] | None = None


class ExtendRequest(Request):
    """POST /v1/reservations/{id}/extend: extend the expiry, counted from the old one."""

    extend_by_ms: Annotated[int, Field(ge=1, le=86_400_000)]
    metadata: dict[str, Any] | None = None


class EventRequest(Request):
    """POST /v1/events: record spend that had no reservation."""

    subject: Subject
    action: Action
    actual: Amount
    overage_policy: OveragePolicy | None = None
    metrics: Metrics | None = None
    client_time_ms: Count | None = None
    metadata: dict[str, Any] | None = None


ModelT = TypeVar("ModelT", bound=BaseModel)


def parse(model: type[ModelT], body: object) -> ModelT:
    """Check and parse a body: decoded JSON, or a model of the client library.

    Raises:
        Refusal: 400 INVALID_REQUEST naming the first wrong field; nothing was written.
    """
    try:
        wire = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
        _refuse_null(wire)
        if model is ReserveRequest and isinstance(wire, dict):
            wire = {"grace_period_ms": DEFAULT_GRACE_MS, "dry_run": False, **wire}
        # Through JSON text even within one process: values that could not travel over HTTP (a lone surrogate, NaN, a
        # Python object) are refused here, so that everything stored can be hashed, written and shown again.
        canonical = _CANONICAL.encode(wire).encode()
        parsed = model.model_validate_json(canonical)
        if isinstance(parsed, Request):
            parsed.note_payload(canonical)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in error["loc"]) or "body"
        raise Refusal(400, "INVALID_REQUEST", f"Validation failed: {field}: {error['msg']}") from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise Refusal(
            400, "INVALID_REQUEST", "Malformed request body: it holds something that JSON cannot say"
        ) from exc
    return parsed


# The one JSON text of equal values, independent of the order of their keys.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_PARTS = ("subject", "action", "estimate", "actual", "metrics")
"""Members that are objects of known fields, unlike what clients attach (metadata, dimensions, custom)."""


def _refuse_null(wire: object, within: str = "") -> None:
    """Refuse null for a known field: the protocol's fields are present or absent (Cycles v0, components.schemas)."""
    if not isinstance(wire, dict):
        return
    for name, value in wire.items():
        if value is None:
            raise Refusal(400, "INVALID_REQUEST", f"Validation failed: {within}{name}: must not be null; leave it out")
        if not within and name in _PARTS:
            _refuse_null(value, f"{name}.")


def plain(model: BaseModel) -> dict[str, Any]:
    """Return a model's JSON object, without unset fields."""
    return model.model_dump(exclude_none=True)


def model_text(model: BaseModel | None) -> str | None:
    """Return a model's compact JSON, without unset fields; ``None`` for ``None``."""
    return None if model is None else model.model_dump_json(exclude_none=True)


def json_text(value: object) -> str:
    """Return compact JSON."""
    return to_json(value).decode()


def json_text_or_null(value: Mapping[str, Any] | None) -> str | None:
    """Return compact JSON, or ``None`` for ``None``."""
    return None if value is None else json_text(value)
