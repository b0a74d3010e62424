"""Structured output: a schema that the caller asks for, and whether an answer fits it.

Two schemas are made from one. An answer is validated against the caller's own; the API is sent (``wire``) as much of it
as the API can enforce, and the rest in words. So a schema is refused if the API could only answer less than it allows:
an object of free keys would always come back empty.

A schema is the caller's; an answer is not trusted. The cost of a schema is bounded before it is used: its size, its
depth, and the subschemas that its references unfold to. Only a regular expression cannot be bounded: a caller who
writes a catastrophic one has to wait for it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any, cast
from urllib.parse import unquote

from budget_tools.claude.json import UnreadableJsonError, read_json
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.text_safety import printable

MAX_SCHEMA_CHARACTERS = 100_000
"""Maximum length of a schema. It is part of every turn's prompt: this one would be some 30,000 tokens of it."""
MAX_SCHEMA_DEPTH = 64
"""Maximum number of levels of JSON; validating recurses several frames at each."""
MAX_SUBSCHEMAS = 10_000
"""Maximum number of subschemas after unfolding references: a few lines can come to a billion of them."""
MAX_PROBLEM_CHARACTERS = 300

_MAX_PATH_CHARACTERS = 100
_MAX_ERRORS = 50
"""Maximum number of errors searched for the most telling one."""

# Where schemas may be within a schema (JSON Schema 2020-12, core 10); everything else in one is data.
_ONE_SCHEMA = frozenset(
    {
        "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_LISTED_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS = frozenset({"$defs", "dependentSchemas", "patternProperties", "properties"})

_SENT = frozenset({"$defs", "properties", "items", "anyOf", "oneOf", "allOf"})
"""Where the API is sent schemas; schemas elsewhere are described in words and validated here."""
_UNIONS = frozenset({"anyOf", "oneOf", "allOf"})
_SAYS_ITS_TYPE = frozenset({"type", "enum", "const", "$ref"}) | _UNIONS
_NAMES_PLACES = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef", "$schema"})

_Path = tuple[str, ...]
_Schema = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Structured:
    """An answer that fits."""

    value: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """An answer that does not fit."""

    problem: str
    """One sentence: where, as a JSON path, and what is wrong there."""


class OutputSchema:
    """A JSON Schema (2020-12) of an object that an answer has to be."""

    def __init__(self, schema: dict[str, Any], wire: dict[str, Any]) -> None:
        """Use ``parse`` instead."""
        self._wire = wire
        self._validator = _validator_of(schema)

    @classmethod
    def parse(cls, schema: Mapping[str, Any]) -> "OutputSchema":
        """Parse a schema; the result does not change with the mapping that was given.

        ``format`` is not asserted. A ``$schema`` or ``$id`` at the root is ignored: every schema is read as 2020-12.

        Raises:
            InvalidArgumentError: it is not a valid schema of an object, is too large, refers to itself or to anything
                but its own ``$defs``, or asks for something that the API cannot answer.
        """
        own = _plain(schema)
        own.pop("$schema", None)
        own.pop("$id", None)
        _check_metaschema(own)
        subschemas = dict(_walk((), own))
        for path, subschema in subschemas.items():
            _check_keywords(path, subschema, definitions=own.get("$defs", {}))
        _check_root(own)
        for path, subschema in _walk((), own, only_sent=True):
            _check_can_be_sent(path, subschema)
        _check_references(subschemas)
        return cls(own, {"format": {"type": "json_schema", "schema": _sendable(own)}})

    def wire(self) -> dict[str, Any]:
        """Return the request's ``output_config``."""
        return cast("dict[str, Any]", json.loads(json.dumps(self._wire)))

    def check(self, text: str) -> Structured | Mismatch:
        """Read an answer strictly and validate it; one fence of Markdown around it is removed, prose is not.

        Its time is bounded by the schema's bounds and the answer's length, except for the time of a ``pattern``.
        """
        try:
            value = read_json(_unfenced(text.strip()))
            errors = list(islice(self._validator.iter_errors(value), _MAX_ERRORS))
            return Mismatch(problem=_problem(errors)) if errors else Structured(value=value)
        except UnreadableJsonError as exc:
            return Mismatch(problem=_short(f"The answer {exc}.", MAX_PROBLEM_CHARACTERS))
        except RecursionError:
            return Mismatch(problem="The answer is nested too deeply.")
        except OverflowError:
            return Mismatch(problem="The answer has a number too large to be compared.")


def repair_notice(mismatch: Mismatch) -> str:
    """Return the notice to the sub-agent of what to correct, in the one turn that it has for it."""
    return (
        f"Your answer does not fit the schema that was asked for. {mismatch.problem} "
        "Answer again with the whole JSON object, corrected, and nothing else."
    )


# -- the schema -----------------------------------------------------------------------------------------------------


def _refused(path: _Path, what: str) -> InvalidArgumentError:
    pointer = "/".join(("#", *(part.replace("~", "~0").replace("/", "~1") for part in path)))
    at = f" at {_short(pointer, _MAX_PATH_CHARACTERS)}" if path else ""
    return InvalidArgumentError(f"output_schema{at} {what}.")


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a schema through its JSON, within bounds."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, Mapping | list)
            for child in (each.values() if isinstance(each, Mapping) else each)
        ]
        if len(level) > MAX_SCHEMA_CHARACTERS:
            break
    if level:
        raise _refused((), f"is too large, or deeper than {MAX_SCHEMA_DEPTH} levels")
    try:
        written = json.dumps(schema, allow_nan=False, ensure_ascii=False, default=dict)
        written.encode()
    except (TypeError, ValueError):
        raise _refused((), "must be JSON") from None
    if len(written) > MAX_SCHEMA_CHARACTERS:
        raise _refused((), f"is too large: {len(written):,} characters, of at most {MAX_SCHEMA_CHARACTERS:,}")
    return cast("dict[str, Any]", json.loads(written))


def _check_metaschema(schema: _Schema) -> None:
    import jsonschema  # imported here: a delegation without a schema need not wait for it

    try:
        # Its own check of regular expressions fails on some; ours follows.
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=jsonschema.FormatChecker(formats=()))
    except jsonschema.SchemaError as exc:
        path = tuple(str(part) for part in exc.absolute_path)
        raise _refused(path, f"is no JSON Schema (2020-12): {_short(_said(exc), 200)}") from None


def _walk(path: _Path, schema: object, *, only_sent: bool = False) -> Iterator[tuple[_Path, object]]:
    """Yield every subschema, or those that the API is sent, with its path; ``True`` and ``False`` are schemas too."""
    yield path, schema
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if only_sent and keyword not in _SENT:
            continue
        if keyword in _ONE_SCHEMA:
            yield from _walk((*path, keyword), value, only_sent=only_sent)
        elif keyword in _LISTED_SCHEMAS:
            for index, each in enumerate(value):
                yield from _walk((*path, keyword, str(index)), each, only_sent=only_sent)
        elif keyword in _NAMED_SCHEMAS:
            for name, each in value.items():
                yield from _walk((*path, keyword, name), each, only_sent=only_sent)


def _check_keywords(path: _Path, schema: object, *, definitions: _Schema) -> None:
    """Check that references stay within the document, and that regular expressions compile."""
    if not isinstance(schema, dict):
        return
    if found := sorted(_NAMES_PLACES & schema.keys()):
        raise _refused(path, f"has {found[0]}: only $ref to the schema's own #/$defs/… is understood")
    if "definitions" in schema:
        raise _refused(path, "has definitions: call them $defs, and refer to them as #/$defs/…")
    if "$defs" in schema and path:
        raise _refused(path, "has $defs: they belong at the root of the schema")
    if "$ref" in schema and _definition(schema["$ref"]) not in definitions:
        raise _refused(path, f"refers to {_short(repr(schema['$ref']), 80)}, which is none of its own #/$defs/…")
    for pattern in (*filter(None, [schema.get("pattern")]), *schema.get("patternProperties", ())):
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as exc:
            raise _refused(path, f"has a regular expression that does not compile: {_short(str(exc), 100)}") from None


def _definition(reference: str) -> str | None:
    """Return the name of the definition that a ``$ref`` refers to; ``None`` if it does not refer to one."""
    name = reference.removeprefix("#/$defs/")
    if name == reference or "/" in name:
        return None
    return unquote(name).replace("~1", "/").replace("~0", "~")


def _check_root(schema: _Schema) -> None:
    if schema.get("type") != "object":
        raise _refused((), 'must be the schema of an object: "type": "object" at its root')
    if found := sorted((_SAYS_ITS_TYPE - {"type"}) & schema.keys()):
        raise _refused((), f"has {found[0]} at its root, where the API takes only an object with properties")


def _check_can_be_sent(path: _Path, schema: object) -> None:
    """Raise if the API could only answer less than the schema allows."""
    if not isinstance(schema, dict) or not _SAYS_ITS_TYPE & schema.keys():
        raise _refused(path, "must say its type: the API answers no values of any type")
    if len(schema.get("allOf", ())) > 1:
        raise _refused(path, "has allOf of several schemas, which the API cannot join: write them as one")
    types = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    if {"$ref", "enum", "const", *_UNIONS} & schema.keys():
        return
    if "object" in types:
        properties = schema.get("properties", {})
        additional = schema.get("additionalProperties")
        if not properties or isinstance(additional, dict) or "patternProperties" in schema:
            raise _refused(
                path, "is an object of free keys, which the API cannot answer: list its properties, or use an array"
            )
        if unlisted := [name for name in schema.get("required", ()) if name not in properties]:
            raise _refused(path, f"requires {_short(repr(unlisted[0]), 60)}, which is none of its properties")
    if "array" in types and "items" not in schema:
        raise _refused(path, "is an array that must say what its items are")


def _check_references(subschemas: Mapping[_Path, object]) -> None:
    """Check that a schema does not refer to itself, nor unfold to more than can be validated in time."""
    parts: dict[_Path, list[_Path]] = {path: [] for path in subschemas}
    for path, schema in subschemas.items():
        if path:
            parent = next(path[:end] for end in range(len(path) - 1, -1, -1) if path[:end] in parts)
            parts[parent].append(path)
        if isinstance(schema, dict) and "$ref" in schema:
            parts[path].append(("$defs", _definition(schema["$ref"]) or ""))
    try:
        order = list(TopologicalSorter(parts).static_order())
    except CycleError as exc:
        inside = next(path for path in exc.args[1] if path)
        raise _refused(inside, "refers to itself, which the API cannot answer") from None
    sizes: dict[_Path, int] = {}
    for path in order:
        sizes[path] = 1 + sum(sizes[part] for part in parts[path])
    if max(sizes.values()) > MAX_SUBSCHEMAS:
        raise _refused((), f"is too large: its references unfold to more than {MAX_SUBSCHEMAS:,} schemas")


def _sendable(schema: dict[str, Any]) -> dict[str, Any]:
    """Convert a schema to the API's form: the client's own function moves into words what cannot be enforced."""
    from anthropic import transform_schema  # imported here: about a second that no start should wait for

    try:
        return transform_schema(_one_type_each(schema))
    except (AssertionError, AttributeError, TypeError, ValueError) as exc:
        raise _refused((), f"cannot be put to the API: {_short(str(exc), 150)}") from exc


def _one_type_each(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Convert lists of types to ``anyOf``: the client's function knows one type at a time."""
    own = dict(schema)
    for keyword in _SENT & own.keys():
        value = own[keyword]
        if keyword in _ONE_SCHEMA:
            own[keyword] = _one_type_each(value)
        elif keyword in _LISTED_SCHEMAS:
            own[keyword] = [_one_type_each(each) for each in value]
        else:
            own[keyword] = {name: _one_type_each(each) for name, each in value.items()}
    if not isinstance(own.get("type"), list):
        return own
    types = own.pop("type")
    if {"$ref", "enum", "const", *_UNIONS} & own.keys():
        return own
    said: dict[str, Any] = {keyword: own.pop(keyword) for keyword in ("title", "description") if keyword in own}
    if len(types) == 1:
        return {**said, **own, "type": types[0]}
    return {**said, "anyOf": [{"type": each} if each in _BARE_TYPES else {**own, "type": each} for each in types]}


_BARE_TYPES = frozenset({"null", "boolean"})


def _validator_of(schema: dict[str, Any]) -> Any:  # noqa: ANN401 - jsonschema has no types
    import jsonschema  # imported here: a delegation without a schema need not wait for it

    # Nothing is ever fetched: every reference was checked to stay within the schema.
    strict = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"uniqueItems": _unique_items})
    return strict(schema)


def _unique_items(_validator: object, wanted: bool, value: object, _schema: object) -> Iterator[Exception]:
    """Find two equal items, in a time that does not grow with the square of their number."""
    import jsonschema

    if wanted and isinstance(value, list) and len({_canonical(item) for item in value}) < len(value):
        yield jsonschema.ValidationError("the items are not all different")


def _canonical(value: object) -> str:
    """Return a value as text that is the same for equal values: in JSON Schema 1.0 is 1, but true is not."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: object) -> object:
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_whole_numbers(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


# -- the answer -----------------------------------------------------------------------------------------------------


def _unfenced(text: str) -> str:
    """Return a text without one fence of Markdown around the whole of it, as models often write."""
    opening, _, rest = text.partition("\n")
    if opening.rstrip() in ("```", "```json", "```JSON") and rest.endswith("\n```"):
        return rest.removesuffix("```").strip()
    return text


def _problem(errors: list[Any]) -> str:
    from jsonschema.exceptions import best_match

    error = best_match(errors)
    path = _short(error.json_path, _MAX_PATH_CHARACTERS)
    return _short(f"At {path}: {_said(error)}.", MAX_PROBLEM_CHARACTERS)


def _said(error: Any) -> str:  # noqa: ANN401 - jsonschema has no types
    """Return what is wrong; if the value itself takes all of the room, what was required of it."""
    message: str = error.message
    if len(message) <= MAX_PROBLEM_CHARACTERS - _MAX_PATH_CHARACTERS - len("At : ."):
        return message
    wanted = _short(json.dumps(error.validator_value, ensure_ascii=False), 80)
    return f"{_short(repr(error.instance), 60)} does not satisfy {error.validator}: {wanted}"


def _short(text: str, most: int) -> str:
    """Return text on one line, printable and short."""
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
