"""What every answer must be, whatever a test is about."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from runcycles import CyclesResponse
from runcycles import models as wire

_DENIALS = {
    wire.ErrorCode.BUDGET_EXCEEDED,
    wire.ErrorCode.BUDGET_FROZEN,
    wire.ErrorCode.BUDGET_CLOSED,
    wire.ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
    wire.ErrorCode.DEBT_OUTSTANDING,
}
_ATTACHED = ("metadata", "committed_metadata")  # what a client attached comes back as it was sent
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def check_error(response: CyclesResponse, *, has_trace_id: bool, has_deny_detail: bool) -> None:
    """Check an error: the protocol's ErrorResponse and nothing else (Cycles v0, ErrorResponse)."""
    assert response.body is not None, response
    body = dict(response.body)
    if has_trace_id:
        assert _TRACE_ID.fullmatch(body.pop("trace_id"))
    error = wire.ErrorResponse.model_validate(body)
    assert error.message.strip()
    assert error.request_id == response.request_id
    if has_deny_detail and response.status == 409:
        assert error.details is not None
        detail = error.details["deny_detail"]
        assert detail["reason_code"] == response.body["error"]
        assert detail["suggested_fix"].strip()
        if error.error_code in _DENIALS:
            assert set(detail) == {"reason_code", "blocked_by_scope", "budget_remaining", "suggested_fix"}


def check_success(response: CyclesResponse, status: int, model: type[BaseModel] | None) -> None:
    """Check a success: its status, no null anywhere, and the client library's strict model."""
    assert response.status == status
    assert not any(value is None for value in _leaves(response.body)), response.body
    if model is not None:
        model.model_validate(response.body, strict=False)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name not in _ATTACHED:
                yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def without_nulls(value: Any) -> Any:
    """Leave out what is null."""
    if isinstance(value, dict):
        return {
            name: each if name in _ATTACHED else without_nulls(each) for name, each in value.items() if each is not None
        }
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def lasting(body: dict[str, Any]) -> dict[str, Any]:
    """Leave out the one field that a replay computes anew (Cycles v0, remaining_ttl_ms)."""
    return {name: value for name, value in body.items() if name != "remaining_ttl_ms"}


def body_of(response: CyclesResponse) -> dict[str, Any]:
    """Give the body of a success."""
    assert response.is_success, response.body
    assert response.body is not None
    return response.body


def assert_refused(response: CyclesResponse, status: int, code: str) -> dict[str, Any]:
    """Assert a protocol error and give its body."""
    assert response.body is not None, response
    assert (response.status, response.body.get("error")) == (status, code), response.body
    return response.body
