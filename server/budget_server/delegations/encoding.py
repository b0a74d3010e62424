"""How what a model said becomes text in a table, and the same again when it is read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def to_json(value: object) -> str:
    """Write a value as JSON.

    Text stays readable, unless there is half of a surrogate pair in it, which the API may send and no UTF-8 can hold:
    then all but ASCII is escaped. NUL always is.
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
    """Read what ``to_json`` wrote."""
    return json.loads(text)


def _dumps(value: object, *, ensure_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """Give an interface's container as the one that JSON knows."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
