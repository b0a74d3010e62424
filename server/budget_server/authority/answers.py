"""Answers of a Cycles server, converted to the form that the client library accepts.

A newer server may send fields that the library does not know, or null for a missing value, and a proxy may answer in
its place. The library treats an answer with one unknown field as missing: it would repeat a commit forever, and report
a held reservation as denied. So answers are read here first:

    in the answer of a success                        what becomes of it
    a field that the library does not know, a null    left out
    a field that is optional and cannot be read       left out, unless money or a limit depends on it
    another status of success                         the one that the protocol has for the operation
    a limit (``caps``) that the library does not know the answer cannot be read: the limit would not be enforced
    anything else that the protocol does not have     the answer cannot be read

An answer that cannot be read is a transport error (502), never a denial: the same key may be sent again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from runcycles import CyclesResponse
from runcycles.models import (
    Caps,
    CommitResponse,
    DecisionResponse,
    ErrorResponse,
    EventCreateResponse,
    ReleaseResponse,
    ReservationCreateResponse,
    ReservationExtendResponse,
)

Operation = Literal["reserve", "commit", "release", "extend", "event", "decide", "show", "list", "balances"]

UNREADABLE = "its answer cannot be read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The shape of an operation's success."""

    status: int = 200
    model: type[BaseModel] | None = None
    """The library's own model; ``None`` if only our tools read the answer."""
    needs: Mapping[str, type] | None = None
    """The fields that our tools require, if no model exists."""


FORMS: Mapping[Operation, Form] = {
    "reserve": Form(model=ReservationCreateResponse),
    "commit": Form(model=CommitResponse),
    "release": Form(model=ReleaseResponse),
    "extend": Form(model=ReservationExtendResponse),
    "event": Form(status=201, model=EventCreateResponse),
    "decide": Form(model=DecisionResponse),
    "show": Form(needs={"reservation_id": str, "status": str}),
    "list": Form(needs={"reservations": list}),
    "balances": Form(needs={"balances": list}),
}

_NEVER_LEFT_OUT = frozenset({"reservation_id", "caps", "charged"})
"""Optional in the protocol; but if one of these is present and cannot be read, the whole answer cannot be read."""

_OPAQUE = frozenset({"metadata", "committed_metadata", "custom", "dimensions"})
"""Fields that clients attach; a null in them belongs to the client."""


class Answer(CyclesResponse):
    """An answer whose error is read leniently: the library's model refuses fields that current servers send."""

    def get_error_response(self) -> ErrorResponse | None:
        """Return the protocol's part of an error, ignoring all other fields."""
        body: object = self.body
        if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("error", "message")):
            return None
        details = body.get("details")
        return ErrorResponse(
            error=body["error"],
            message=body["message"],
            request_id=str(body.get("request_id") or ""),
            details=details if isinstance(details, dict) else None,
        )


def read(operation: Operation, response: CyclesResponse, *, holds: bool = False) -> CyclesResponse:
    """Return an answer as the client library accepts it; a success that cannot be read becomes a transport error.

    Args:
        operation: the operation that was requested.
        response: the answer as it arrived.
        holds: whether an allowed reserve must name its reservation; a dry run holds nothing.
    """
    if not response.is_success:
        if not response.is_transport_error:
            response.__class__ = Answer
        return response
    form = FORMS[operation]
    body = _readable(form, response.body)
    is_whole = not holds or (body or {}).get("decision") == "DENY" or bool((body or {}).get("reservation_id"))
    if body is not None and is_whole:
        response.status, response.body = form.status, body
        return response
    said = {"error": "UNREADABLE_ANSWER", "message": UNREADABLE}
    return CyclesResponse.http_error(502, UNREADABLE, said, response.headers)


def _readable(form: Form, body: object) -> dict[str, Any] | None:
    if not isinstance(body, dict):
        return None
    if form.model is None:
        kept = _without_nulls(body)
        return kept if all(isinstance(kept.get(name), kind) for name, kind in (form.needs or {}).items()) else None
    kept = _known(form.model, body)
    if form.model is ReservationCreateResponse:
        kept.setdefault("affected_scopes", [])
    wrong = _wrong_fields(form.model, kept)
    if any(name in _NEVER_LEFT_OUT or form.model.model_fields[name].is_required() for name in wrong):
        return None
    for name in wrong:
        del kept[name]
    return kept


def _wrong_fields(model: type[BaseModel], body: Mapping[str, Any]) -> set[str]:
    """Return the fields of an object that the library would refuse, read as strictly as the library does."""
    try:
        model.model_validate_json(to_json(body), strict=True)
    except ValidationError as exc:
        return {str(error["loc"][0]) for error in exc.errors(include_url=False, include_input=False)}
    return set()


def _known(model: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a model knows, and within each the fields that its own model knows."""
    return {
        name: _part(model, name, each)
        for name, each in value.items()
        if each is not None and (name in model.model_fields or model is Caps)
    }


def _part(model: type[BaseModel], name: str, value: object) -> object:
    inner = _model_of(model, name)
    if isinstance(value, list):
        return [_known(inner, each) if inner and isinstance(each, dict) else each for each in value if each is not None]
    return _known(inner, value) if inner is not None and isinstance(value, dict) else value


@cache
def _model_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    return None if field is None else next(_models_in(field.annotation), None)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {
            name: each if name in _OPAQUE else _without_nulls(each) for name, each in value.items() if each is not None
        }
    return [_without_nulls(each) for each in value if each is not None] if isinstance(value, list) else value
