"""The wire: paths, errors, counts and JSON, as the Messages API has them.

What `message` and `checks` both stand on; nothing here composes an answer or sends one.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

MESSAGES_PATH = "/v1/messages"
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"

INPUT_BYTES_PER_TOKEN = 3
"""Input is counted at one token per this many UTF-8 bytes of JSON: believable, and far below the bytes themselves."""
OUTPUT_BYTES_PER_TOKEN = 4
"""Output is counted at one token per this many UTF-8 bytes of thinking, text and tool input."""

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_envelope(error_type: str, message: str, *, request_id: str, error_code: str = "") -> dict[str, Any]:
    """Return what the API sends as the body of an error, and as the data of an ``error`` event."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if error_code:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": request_id}


def error_type_of(status: int) -> str:
    """Return the type that the API gives an error of this HTTP status."""
    return _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def count_input_tokens(body: Mapping[str, Any]) -> int:
    """Count a request's input as this endpoint does, for its usage and for ``count_tokens`` alike.

    Breakpoints of the prompt cache are no part of it.
    """
    counted: dict[str, Any] = {name: body[name] for name in ("system", "tools", "messages") if name in body}
    for name in ("system", "tools", "messages"):
        if isinstance(counted.get(name), list):
            counted[name] = [without_cache_control(each) for each in counted[name]]
    return math.ceil(len(to_json(counted)) / INPUT_BYTES_PER_TOKEN)


def without_cache_control(holder: Any) -> Any:  # noqa: ANN401 - whatever stands where a block should
    """Copy a message, block or tool without its breakpoints; what tools are called with is left alone."""
    if not isinstance(holder, dict):
        return holder
    bare = {name: value for name, value in cast("dict[str, Any]", holder).items() if name != "cache_control"}
    if isinstance(bare.get("content"), list):
        bare["content"] = [without_cache_control(each) for each in bare["content"]]
    return bare


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message's content as blocks: text alone is short for one text block."""
    content: Any = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return cast("list[dict[str, Any]]", content) if isinstance(content, list) else []


def sign(thinking: str, model: str) -> str:
    """Sign thinking for a model; the same everywhere, so that a conversation may go on at another endpoint."""
    digest = hashlib.sha256(f"{model}\n{thinking}".encode()).digest()
    return base64.b64encode(b"scripted:" + digest).decode()


def to_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON as the API does, without spaces."""
    # Half of a surrogate pair is legal in JSON and has no UTF-8: count and send it as "?".
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
