"""Encoding of a model's words as text in a table, and back without a difference."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def to_json(value: object) -> str:
    """Convert a value to JSON.

    Text stays readable, unless it contains half of a surrogate pair, which the API may send but UTF-8 cannot encode:
    then everything but ASCII is escaped. NUL always is.
    """
    text = _dumps(value, ensure_ascii=False)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _dumps(value, ensure_ascii=True)
    return text


def from_json(text: str) -> Any:  # noqa: ANN401 - whatever was stored
    """Parse the output of ``to_json``."""
    return json.loads(text)


def _dumps(value: object, *, ensure_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """Convert a container of an interface type to its JSON equivalent."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
