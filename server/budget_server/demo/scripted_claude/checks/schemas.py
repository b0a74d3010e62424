"""JSON Schemas: of what tools are called with, and of answers.

Sources: "Define tools" and the errors that the API gives for input schemas; "Structured outputs", JSON Schema
limitations, for the schema of an answer.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

_PROPERTY_KEY = re.compile(r"[a-zA-Z0-9_.-]{1,64}", re.ASCII)
_UNIONS = ("oneOf", "allOf", "anyOf")


def find_input_schema_problems(schema: object, where: str) -> Iterator[str]:
    """Yield why a tool's schema is not accepted."""
    if not isinstance(schema, dict):
        yield f"{where}: a JSON schema is needed."
        return
    if schema.get("type") != "object":
        yield f"{where}.type: must be object."
    if found := [name for name in _UNIONS if name in schema]:
        yield f"{where}: {found[0]} is not supported at the top level."
    properties = schema.get("properties")
    for key in properties if isinstance(properties, dict) else ():
        if _PROPERTY_KEY.fullmatch(key) is None:
            yield f"{where}.properties: property keys must match ^[a-zA-Z0-9_.-]{{1,64}}$."
    if not _is_valid_schema(json.dumps(schema)):
        yield f"{where}: must match JSON Schema draft 2020-12."


@lru_cache(maxsize=256)
def _is_valid_schema(schema_json: str) -> bool:
    from jsonschema import Draft202012Validator, SchemaError  # here: slow to import, and most starts need none of it

    try:
        Draft202012Validator.check_schema(json.loads(schema_json))
    except SchemaError:
        return False
    return True


def find_format_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield a format of the answer that the API cannot keep an answer to."""
    config = body.get("output_config")
    if config is None:
        return
    if not isinstance(config, dict):
        yield "output_config: must be an object."
        return
    form = config.get("format")
    if form is None:
        return
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        yield "output_config.format.type: must be json_schema."
    elif not isinstance(form.get("schema"), dict):
        yield "output_config.format.schema: a JSON schema is needed."
    elif form["schema"].get("type") != "object":
        yield "output_config.format.schema: must be the schema of an object."
    else:
        yield from _find_unenforceable(form["schema"], "output_config.format.schema")


_NOT_ENFORCED = frozenset(
    {
        "exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maxProperties", "maximum", "minLength",
        "minProperties", "minimum", "multipleOf", "uniqueItems",
    }
)  # fmt: skip
"""What the API refuses instead of overlooking it ("Structured outputs", JSON Schema limitations)."""


def _find_unenforceable(schema: dict[str, Any], where: str) -> Iterator[str]:
    """Yield what the API says it cannot enforce, from the outside in."""
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield f"{where}: for 'object' type, 'additionalProperties' must be explicitly set to false."
    if unknown := _NOT_ENFORCED & schema.keys():
        yield f"{where}: '{min(unknown)}' is not supported."
    reference = schema.get("$ref")
    if reference is not None and not str(reference).startswith("#/"):
        yield f"{where}.$ref: references out of the schema are not supported."
    for name, value in schema.items():
        children: dict[str, Any] = {}
        if name in ("properties", "$defs") and isinstance(value, dict):
            children = value
        elif name in ("anyOf", "allOf") and isinstance(value, list):
            children = {str(index): each for index, each in enumerate(value)}
        elif name == "items":
            children = {"": value}
        for child_name, child in children.items():
            if isinstance(child, dict):
                yield from _find_unenforceable(child, ".".join(filter(None, [where, name, child_name])))
