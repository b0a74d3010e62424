"""Values that a schema allows, and values that nobody should send."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

SECRET = "sk-ant-canary-6f1d2b7c"  # noqa: S105 - planted, to be looked for
"""The API key of the server that is fuzzed."""

NUMBERS: Sequence[object] = [
    -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30, -(2**63) - 1, 1.5, 1.0, -0.0, 1e-9, 1e308, float("nan"),
    float("inf"), True, False, "100", "1_000", " 100", "100\n", "\uff11\uff10", "1e2", "0x10", "-1", "\u0663", "NaN",
    "9" * 5_000,
]  # fmt: skip

TEXTS: Sequence[str] = [
    "", " ", "x" * 257, "x" * 10_000, "a\0b", "half \ud83d of it", "\udc00\ud800", "e\u0301", "\u200b", "\u202egnirts",
    "line\n2026-01-01 00:00:00,000 INFO root: charged 0", "\r\nX-Injected: 1", "\x1b[2J\x1b]0;owned\x07", "\x9b31m",
    "'; DROP TABLE budgets; --", "../../etc/passwd", "/dev/null", "\\\\host\\share", "tenant:acme/agent:bot", "a:b/c:d",
    "acme-evil", "\U0001f4b8" * 64, "{0.__class__.__mro__}", "%s%n%(x)s", "${HOME}", "</result>", "null", "[]", "{}",
    '{"a": 1}', "\ufeff", "\u2028\u2029", "sk-ant-api03-other", "constructor", "__proto__", "None",
]  # fmt: skip

DEEP: object = json.loads("[" * 150 + "]" * 150)
"""Nested nearly as deep as the JSON parser reads."""

ODD: SearchStrategy[object] = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from([None, [], {}, DEEP, {"a": DEEP}, [None] * 1_000, {"": ""}, {"$ref": "file:///etc/passwd"}]),
    st.text(st.characters(codec=None), max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
"""What fits nowhere, or only by accident."""


def fitting(schema: Mapping[str, Any]) -> SearchStrategy[Any]:
    """Values of a schema, as far as ``tools/list`` uses JSON Schema."""
    kind = schema.get("type")
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(kind, list):
        return st.one_of([fitting({**schema, "type": each}) for each in kind])
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
    if kind == "string":
        return st.text(max_size=min(schema.get("maxLength", 40), 300))
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return st.lists(fitting(schema.get("items", {})), max_size=min(schema.get("maxItems", 5), 12))
    if kind == "object":
        properties = schema.get("properties", {})
        if properties:
            required = {name: fitting(properties[name]) for name in schema.get("required", ())}
            optional = {name: fitting(each) for name, each in properties.items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)
        return st.dictionaries(st.text(max_size=10), st.none() | st.integers() | st.text(max_size=20), max_size=4)
    assert kind is None, f"a schema that this does not know: {schema}"
    return ODD


@st.composite
def arguments(
    draw: st.DrawFn, schema: Mapping[str, Any], likely: Mapping[str, SearchStrategy[Any]], ways: Sequence[set[str]]
) -> dict[str, object]:
    """A tool's arguments: sensible ones, ones that only fit the schema, damaged ones, and names that it has not.

    Args:
        draw: given by hypothesis.
        schema: the tool's input schema.
        likely: by name of an argument, values that mean something to the server.
        ways: arguments that have to be said together.
    """
    properties: Mapping[str, Any] = schema["properties"]
    # One mode for all of them: where one argument in eleven is damaged, the other ten are looked at as well.
    damaged = draw(st.sampled_from(["none", "none", "none", "one", "one", "all"]))
    way = draw(st.sampled_from(ways))
    apart = {name for each in ways for name in each}
    victim = draw(st.sampled_from(sorted(properties)))
    free = [name for name in sorted(properties) if damaged == "all" or name not in apart]
    names = draw(st.lists(st.sampled_from(free), unique=True, max_size=3)) if free else []
    chosen = {*schema.get("required", ()), *way, *names} | ({victim} if damaged == "one" else set())
    given: dict[str, object] = {}
    for name in sorted(chosen):
        if damaged == "all" or (damaged == "one" and name == victim):
            given[name] = draw(ODD)
        elif name in likely:
            given[name] = draw(likely[name] if draw(st.integers(0, 9)) else fitting(properties[name]))
        else:
            given[name] = draw(fitting(properties[name]))
    if draw(st.integers(0, 19)) == 0:
        given[draw(st.sampled_from(TEXTS) | st.text(max_size=30))] = draw(ODD)
    return given
