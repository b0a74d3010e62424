"""JSON written by a model, read strictly: text that two readers could understand differently is rejected.

Python's own reader takes the last of two equal keys, and accepts NaN, infinities and halves of surrogate pairs, which
the next reader of the value may read otherwise or not at all.
"""

import json
import math
from typing import Any

MAX_CHARACTERS = 2_000_000
"""Maximum length of a text; more than the longest answer of any model (128,000 tokens)."""


class UnreadableJsonError(ValueError):
    """The reason that a text cannot be read; the message continues "The answer"."""


def read_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse one JSON value (RFC 8259) and nothing after it.

    Raises:
        UnreadableJsonError: it is not JSON, or not JSON that every reader would read alike.
        RecursionError: it is nested too deeply for this interpreter.
    """
    if not text:
        raise UnreadableJsonError("is empty, where a JSON object was asked for")
    if len(text) > MAX_CHARACTERS:
        raise UnreadableJsonError(f"is too long: at most {MAX_CHARACTERS:,} characters are read")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
        # Half of a surrogate pair is legal in JSON, but cannot be written as UTF-8.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        if exc.msg == "Extra data":
            raise UnreadableJsonError(f"goes on after its JSON value, at {where}") from None
        raise UnreadableJsonError(f"is not JSON: {exc.msg} at {where}") from None
    except UnicodeEncodeError:
        raise UnreadableJsonError("has half of a surrogate pair in a string") from None
    return value


def read_event(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse an endpoint's data leniently; ``None`` if it is not JSON.

    Values outside of JSON (NaN, infinity) become ``None``.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite_or_none)
    except (ValueError, RecursionError):
        return None


def _finite_or_none(written: str) -> float | None:
    number = float(written)
    return number if math.isfinite(number) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise UnreadableJsonError(f"has the key {repr(name)[:60]} twice in one object")
        members[name] = value
    return members


def _no_constant(name: str) -> None:
    raise UnreadableJsonError(f"has {name}, which is no JSON")


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise UnreadableJsonError(f"has a number that is too large: {written[:40]}")
    return number


def _integer(written: str) -> int:
    try:
        return int(written)
    except ValueError:  # thousands of digits: see sys.set_int_max_str_digits
        raise UnreadableJsonError(f"has a number that is too large: {written[:40]}") from None
