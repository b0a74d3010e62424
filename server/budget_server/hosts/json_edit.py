"""Editing of a JSON text in place: one member is inserted or removed, and every other byte stays unchanged.

Parsing and writing it again would lose the style of people's own files: indentation, the spelling of numbers, escapes.
So the text is only scanned, to find where the members of an object begin and end.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from budget_tools.core.errors import InvalidArgumentError

Keys = tuple[str, ...]
"""The path of a value: the keys that lead to it, from the outermost object on."""

_SPACES = " \t\r\n"
_SPACE = re.compile(rf"[{_SPACES}]*")


class _Member(NamedTuple):
    """A member of an object, by its position in the text."""

    key: str
    start: int
    value_start: int
    end: int


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_object(text: str) -> dict[str, Any]:
    """Read a text that must be one JSON object; an empty text is an empty object.

    Raises:
        InvalidArgumentError: it is not; the message, here and below, is to be appended to the name of the text.
    """
    if not text.strip(_SPACES):
        return {}
    try:
        found = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise InvalidArgumentError(f"is not plain JSON (line {exc.lineno}, column {exc.colno})") from exc
    except ValueError as exc:
        raise InvalidArgumentError(f"is not plain JSON ({exc})") from exc
    except RecursionError as exc:
        raise InvalidArgumentError("is nested too deeply") from exc
    if not isinstance(found, dict):
        raise InvalidArgumentError("does not hold a JSON object")
    return found


def value_at(text: str, keys: Keys) -> Any | None:  # noqa: ANN401 - any JSON value
    """Return the value at a path; ``None`` if it does not exist.

    Raises:
        InvalidArgumentError: the text or a part of the path is not a JSON object, or a key of the path occurs twice.
    """
    if not read_object(text):
        return None
    try:
        start = _find(text, keys)
    except KeyError:
        return None
    return _DECODER.raw_decode(text, start)[0]


def put(text: str, keys: Keys, value: Mapping[str, Any]) -> str:
    """Insert a value at a path: in place of an existing value, else after its future neighbours.

    Raises:
        InvalidArgumentError: the text or a part of the path is not a JSON object, or a key of the path occurs twice.
    """
    read_object(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    if not text.strip(_SPACES):
        text = f"{{}}{newline}"
    depth = _depth_there(text, keys)
    if depth == len(keys):
        start = _find(text, keys)
        end = _DECODER.raw_decode(text, start)[1]
        is_laid_out = "\n" in text[start:end]
        shown = _dump(text, value, _line_indent(text, start), newline, is_laid_out=is_laid_out)
        return text[:start] + shown + text[end:]
    for key in reversed(keys[depth + 1 :]):
        value = {key: value}
    return _insert(text, _find(text, keys[:depth]), keys[depth], value, newline)


def take(text: str, keys: Keys) -> str:
    """Remove a value, with the comma that it no longer needs; an object that becomes empty stays.

    Raises:
        InvalidArgumentError: the value does not exist, or its object cannot be read.
    """
    read_object(text)
    try:
        container = _find(text, keys[:-1])
        _find(text, keys)
    except KeyError:
        raise InvalidArgumentError(f"has no {'.'.join(keys)}") from None
    members = list(_members(text, container))
    (place,) = (index for index, member in enumerate(members) if member.key == keys[-1])
    if len(members) == 1:
        start, end = container + 1, _end(text, container) - 1
    elif place == 0:
        start, end = members[0].start, members[1].start
    else:
        start, end = members[place - 1].end, members[place].end
    return text[:start] + text[end:]


def replace_strings(text: str, change: Callable[[Keys, str], str | None]) -> str:
    """Replace strings, to show a text without its secrets.

    Args:
        text: a JSON object.
        change: returns the text to show for a string and the keys that lead to it; ``None`` leaves the string. A
            position in a list counts as a key.
    """
    if not text.strip(_SPACES):
        return text
    parts: list[str] = []
    done = 0
    for keys, start, end in _strings(text, _skip(text, 0), ()):
        shown = change(keys, json.loads(text[start:end]))
        if shown is not None:
            parts += [text[done:start], json.dumps(shown, ensure_ascii=False)]
            done = end
    return "".join(parts) + text[done:]


def _strings(text: str, start: int, keys: Keys) -> Iterator[tuple[Keys, int, int]]:
    if text[start] == '"':
        yield keys, start, _end(text, start)
    elif text[start] == "{":
        for member in _members(text, start):
            yield from _strings(text, member.value_start, (*keys, member.key))
    elif text[start] == "[":
        place = _skip(text, start + 1)
        index = 0
        while text[place] != "]":
            yield from _strings(text, place, (*keys, str(index)))
            place = _skip(text, _end(text, place))
            if text[place] == ",":
                place = _skip(text, place + 1)
            index += 1


def _insert(text: str, container: int, key: str, value: Mapping[str, Any], newline: str) -> str:
    """Insert a member into an object after its existing members, in the same layout."""
    members = list(_members(text, container))
    unit = _unit(text)
    if members:
        before = text[container + 1 : members[0].start]
        is_laid_out = "\n" in before
        indent = before.rpartition("\n")[2] if is_laid_out else ""
        start = end = members[-1].end
        prefix = f",{newline}{indent}" if is_laid_out else f",{' ' * (_colon(text) == ': ')}"
        suffix = ""
    else:
        start, end = container + 1, _end(text, container) - 1
        is_laid_out = _is_laid_out(text)
        outer = _line_indent(text, container)
        indent = outer + unit
        prefix, suffix = (f"{newline}{indent}", f"{newline}{outer}") if is_laid_out else ("", "")
    shown = _dump(text, value, indent, newline, is_laid_out=is_laid_out)
    return text[:start] + prefix + json.dumps(key, ensure_ascii=False) + _colon(text) + shown + suffix + text[end:]


def _dump(text: str, value: Mapping[str, Any], indent: str, newline: str, *, is_laid_out: bool) -> str:
    if not is_laid_out:
        colon = _colon(text)
        return json.dumps(value, ensure_ascii=False, separators=("," + colon[1:], colon))
    lines = json.dumps(value, ensure_ascii=False, indent=_unit(text), separators=(",", _colon(text))).split("\n")
    return f"{newline}{indent}".join(lines)


def _is_laid_out(text: str) -> bool:
    """Return whether a text is laid out in lines; an empty one counts as such."""
    return "\n" in text.strip(_SPACES) or not read_object(text)


def _colon(text: str) -> str:
    """Return the separator between key and value in this text."""
    first = next(_members(text, _skip(text, 0)), None)
    return ":" if first is not None and text[first.value_start - 1] == ":" else ": "


def _unit(text: str) -> str:
    """Return the indentation unit of this text."""
    root = _skip(text, 0)
    first = next(_members(text, root), None)
    if first is None or "\n" not in text[root : first.start]:
        return "  "
    return text[root : first.start].rpartition("\n")[2] or "  "


def _line_indent(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _depth_there(text: str, keys: Keys) -> int:
    """Return how many of the keys exist along the path."""
    for depth in range(len(keys), 0, -1):
        try:
            _find(text, keys[:depth])
        except KeyError:
            continue
        return depth
    return 0


def _find(text: str, keys: Sequence[str]) -> int:
    """Return where a value begins.

    Raises:
        KeyError: it does not exist.
        InvalidArgumentError: a part of the path is not an object, or a key of it occurs twice.
    """
    place = _skip(text, 0)
    for depth, key in enumerate(keys):
        if text[place : place + 1] != "{":
            raise InvalidArgumentError(f"has {'.'.join(keys[:depth])!r}, which is not an object")
        found = [member.value_start for member in _members(text, place) if member.key == key]
        if len(found) > 1:
            raise InvalidArgumentError(f"has {key!r} twice")
        if not found:
            raise KeyError(key)
        (place,) = found
    if keys and text[place] != "{":
        raise InvalidArgumentError(f"has {'.'.join(keys)!r}, which is not an object")
    return place


def _members(text: str, start: int) -> Iterator[_Member]:
    place = _skip(text, start + 1)
    while text[place] != "}":
        key, key_end = _DECODER.raw_decode(text, place)
        value_start = _skip(text, _skip(text, key_end) + 1)
        end = _end(text, value_start)
        yield _Member(key, place, value_start, end)
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _end(text: str, start: int) -> int:
    return _DECODER.raw_decode(text, start)[1]


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None  # the pattern also matches the empty text
    return match.end()
