"""Structured output: schemas that can be kept, answers that keep them, and one sentence where either does not."""

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from anthropic import transform_schema
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.claude.output_schema import (
    MAX_PROBLEM_CHARACTERS,
    MAX_SCHEMA_CHARACTERS,
    Mismatch,
    OutputSchema,
    Structured,
    repair_notice,
)
from budget_tools.core.errors import InvalidArgumentError

STRING = {"type": "string"}
BIKE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": STRING,
        "gears": {"type": "integer", "minimum": 1},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "uniqueItems": True},
    },
    "required": ["name"],
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"no": {"type": "string", "pattern": "^[a-z]+-[0-9]+$"}, "price": {"type": "number"}},
            "required": ["no"],
        }
    },
}


def obj(**properties: Any) -> dict[str, Any]:
    """Make the schema of an object with these properties."""
    return {"type": "object", "properties": properties}


def problem(schema: dict[str, Any], answer: str) -> str:
    """Check an answer that does not fit, and give the problem."""
    checked = OutputSchema.parse(schema).check(answer)
    assert isinstance(checked, Mismatch)
    assert len(checked.problem) <= MAX_PROBLEM_CHARACTERS
    assert checked.problem.isprintable()
    return checked.problem


# -- answers --


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ada", "gears": 3}',
        '  \n{"name": "Ada", "gears": 3}\n ',
        '```json\n{"name": "Ada", "gears": 3}\n```',
        '```\n{"name": "Ada",\n "gears": 3}\n\n```\n',
    ],
)
def test_an_answer_that_fits_is_read_with_or_without_a_fence(answer: str) -> None:
    """Models like to put JSON into a block of Markdown."""
    assert OutputSchema.parse(BIKE).check(answer) == Structured(value={"name": "Ada", "gears": 3})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "is empty"),
        ("Sorry, I could not find out.", "is not JSON: Expecting value at line 1, column 1"),
        ('{"name": "Ada"} There you are.', "goes on after its JSON value, at line 1, column 17"),
        ('Here:\n```json\n{"name": "Ada"}\n```', "is not JSON"),
        ('```json\n{"name": "Ada"}\n```\nThere you are.', "is not JSON"),
        ('```python\n{"name": "Ada"}\n```', "is not JSON"),
        ('{"name": "Ada", "name": "Bob"}', "has the key 'name' twice in one object"),
        ('{"name": "Ada", "gears": NaN}', "has NaN, which is no JSON"),
        ('{"name": "Ada", "gears": -Infinity}', "has -Infinity, which is no JSON"),
        ('{"name": "Ada", "gears": 1e999}', "has a number that is too large: 1e999"),
        ('{"name": "Ada", "gears": ' + "9" * 5_000 + "}", "has a number that is too large"),
        ('{"name": "\\ud800"}', "has half of a surrogate pair"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"name": ' + "[" * 900 + "]" * 900 + "}", "At $.name"),
        ('["Ada"]', "At $: ['Ada'] is not of type 'object'"),
        ("{}", "At $: 'name' is a required property"),
        ('{"name": 5}', "At $.name: 5 is not of type 'string'"),
        ('{"name": "Ada", "gears": 0}', "At $.gears: 0 is less than the minimum of 1"),
        ('{"name": "Ada", "parts": [{"no": "a-1"}, {"no": "A 1"}]}', "At $.parts[1].no: 'A 1' does not match"),
        ('{"name": "Ada", "parts": [{"no": "a-1"}, {"no": "a-1"}]}', "At $.parts: the items are not all different"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_where_and_why(answer: str, said: str) -> None:
    """One sentence, short enough for a turn of repair."""
    assert said in problem(BIKE, answer)


@pytest.mark.parametrize("key", ["k" * 5_000, "\x1b[2J\n\u202e"])
def test_what_the_sub_agent_writes_cannot_stretch_or_colour_the_problem(key: str) -> None:
    """The problem is read by people and hosts: it stays short, printable and on one line."""
    schema = {**obj(**{key: STRING}), "additionalProperties": False}

    assert problem(schema, json.dumps({key: 5}))
    assert problem(schema, json.dumps({f"{key}!": 5}))
    assert "does not satisfy type" in problem(BIKE, json.dumps({"name": ["x" * 5_000]}))


def test_items_that_are_equal_in_json_schema_are_not_different() -> None:
    """1 and 1.0 are one number, true is none; the order of keys says nothing."""
    schema = OutputSchema.parse(obj(a={"type": "array", "items": {"enum": [1, True]}, "uniqueItems": True}))
    deep = OutputSchema.parse(
        obj(a={"type": "array", "uniqueItems": True, "items": obj(b={"type": "number"}, c={"type": "number"})})
    )

    assert isinstance(schema.check('{"a": [1, 1.0]}'), Mismatch)
    assert isinstance(schema.check('{"a": [1, true]}'), Structured)
    assert isinstance(deep.check('{"a": [{"b": 1, "c": 2}, {"c": 2.0, "b": 1}]}'), Mismatch)


def test_many_items_are_compared_in_no_more_than_a_moment() -> None:
    """An answer is anybody's: lists must not be compared item by item with each other."""
    schema = OutputSchema.parse(
        obj(
            a={"type": "array", "uniqueItems": True, "items": {"anyOf": [obj(n={"type": "integer"}), {"type": "null"}]}}
        )
    )
    answer = json.dumps({"a": [{"n": number} for number in range(20_000)]})

    started = time.process_time()
    assert isinstance(schema.check(answer), Structured)
    assert time.process_time() - started < 5


def test_formats_are_not_asserted_and_large_numbers_do_no_harm() -> None:
    """A format is an annotation in 2020-12."""
    schema = OutputSchema.parse(
        obj(at={"type": "string", "format": "date-time"}, n={"type": "number", "multipleOf": 0.1})
    )

    assert isinstance(schema.check('{"at": "whenever"}'), Structured)
    assert "too large to be compared" in problem(
        obj(n={"type": "number", "multipleOf": 0.1}), '{"n": ' + "9" * 400 + "}"
    )


@given(st.text(max_size=60))
def test_any_text_at_all_gets_an_answer(text: str) -> None:
    """Nothing that a model writes is an exception."""
    checked = OutputSchema.parse(obj(a=STRING)).check(text)

    assert isinstance(checked, Mismatch | Structured)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("abc", max_size=2), children, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", max_size=2), json_values, max_size=4))
def test_every_object_that_the_schema_allows_arrives_as_it_was_written(value: dict[str, Any]) -> None:
    """Strictness refuses no JSON."""
    schema = OutputSchema.parse(obj(unused=STRING))

    assert schema.check(json.dumps(value)) == Structured(value=value)


def test_the_repair_notice_repeats_the_problem_and_asks_for_the_whole_object() -> None:
    """A sub-agent has one turn for it."""
    notice = repair_notice(Mismatch(problem="At $.name: 5 is not of type 'string'."))

    assert "At $.name: 5 is not of type 'string'." in notice
    assert "whole JSON object" in notice


# -- schemas --

LAUGHS = {"a0": STRING} | {
    f"a{number}": obj(x={"$ref": f"#/$defs/a{number - 1}"}, y={"$ref": f"#/$defs/a{number - 1}"})
    for number in range(1, 40)
}


def nested(levels: int) -> dict[str, Any]:
    """Make a schema of objects within objects."""
    schema = obj(a=STRING)
    for _ in range(levels):
        schema = obj(a=schema)
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (STRING, '"type": "object" at its root'),
        ({}, '"type": "object" at its root'),
        ({"type": "objekt"}, "at #/type is no JSON Schema"),
        (obj(a={"type": "string", "minLength": -1}), "at #/properties/a/minLength is no JSON Schema"),
        ({**obj(a=STRING), "required": "a"}, "is no JSON Schema"),
        (obj(a=float("nan")), "must be JSON"),
        (obj(a={"const": object()}), "must be JSON"),
        (obj(a={"const": "\ud800"}), "must be JSON"),
        (obj(a={"$ref": "https://example.com/a.json"}), "at #/properties/a refers to 'https://example.com/a.json'"),
        (obj(a={"$ref": "file:///etc/passwd"}), "none of its own"),
        (obj(a={"$ref": "#/$defs/nobody"}), "refers to '#/$defs/nobody'"),
        (obj(a={"$ref": "#/properties/b"}, b=STRING), "none of its own"),
        (obj(a={"$ref": "#"}), "none of its own"),
        (obj(a={**STRING, "not": {"$ref": "https://example.com/a.json"}}), "at #/properties/a/not refers to"),
        (obj(a={**STRING, "$id": "https://example.com/"}), "at #/properties/a has $id"),
        ({**obj(a=STRING), "definitions": {}}, "call them $defs"),
        (obj(a={**STRING, "$defs": {}}), "at the root"),
        ({**obj(a={"$ref": "#/$defs/b"}), "$defs": {"b": obj(a={"$ref": "#/$defs/b"})}}, "refers to itself"),
        ({**obj(a=STRING), "$defs": {"b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}}}, "refers to itself"),
        ({**obj(a={"$ref": "#/$defs/a39"}), "$defs": LAUGHS}, "unfold to more than"),
        (nested(100), "deeper than 64 levels"),
        (obj(a={"enum": ["x" * MAX_SCHEMA_CHARACTERS]}), "characters, of at most"),
        (obj(a={**STRING, "pattern": "("}), "at #/properties/a has a regular expression that does not compile"),
        (obj(a={**STRING, "pattern": "(" * 5_000}), "regular expression"),
        (obj(a={**STRING, "pattern": "a{99999999999}"}), "regular expression"),
        (obj(a={**STRING, "not": {"patternProperties": {"[": {}}}}), "regular expression"),
        ({**obj(a=STRING), "anyOf": [STRING]}, "has anyOf at its root"),
        ({**obj(a=STRING), "$ref": "#/$defs/b", "$defs": {"b": obj(a=STRING)}}, "has $ref at its root"),
        ({"type": "object"}, "free keys"),
        (obj(a={"type": "object", "additionalProperties": STRING}), "at #/properties/a is an object of free keys"),
        (obj(a={**obj(b=STRING), "patternProperties": {"c": STRING}}), "free keys"),
        (obj(a={**obj(b=STRING), "additionalProperties": STRING}), "free keys"),
        ({**obj(a=STRING), "required": ["a", "b"]}, "requires 'b'"),
        (obj(a={}), "at #/properties/a must say its type"),
        (obj(a=True), "must say its type"),
        (obj(a={"type": "array"}), "at #/properties/a is an array"),
        (obj(a={"type": ["array", "null"]}), "is an array"),
        (obj(a={"allOf": [obj(b=STRING), obj(c=STRING)]}), "write them as one"),
        (obj(**{"a/b~c": {}}), "at #/properties/a~1b~0c must"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_in_one_sentence(schema: dict[str, Any], said: str) -> None:
    """With the place in it, before anything is spent."""
    with pytest.raises(InvalidArgumentError, match=re.escape(said)) as caught:
        OutputSchema.parse(schema)

    assert caught.value.message.startswith("output_schema ")
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 450


@pytest.mark.parametrize(
    "schema",
    [
        BIKE,
        nested(28),
        {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a", **obj(a=STRING)},
        obj(a={"enum": [{"$ref": "https://example.com/"}], "type": "object"}, **{"$ref": STRING}),
        {**obj(a={"$ref": "#/$defs/a~1b%25"}), "$defs": {"a/b%": STRING}},
        {**obj(**{f"p{number}": {"$ref": "#/$defs/a5"} for number in range(20)}), "$defs": LAUGHS | {"a39": STRING}},
    ],
)
def test_a_schema_that_can_be_kept_is_taken(schema: dict[str, Any]) -> None:
    """References and keywords are told from data and from names that look like them."""
    if "a39" in schema.get("$defs", {}):
        schema["$defs"] = {name: each for name, each in schema["$defs"].items() if int(name[1:]) < 6}
    output_config = OutputSchema.parse(schema).wire()

    assert output_config["format"]["type"] == "json_schema"


def test_what_is_sent_is_what_the_client_itself_makes_of_it() -> None:
    """What the API cannot enforce is told in words; objects are closed, as it insists."""
    output_config = OutputSchema.parse(BIKE).wire()

    assert output_config == {"format": {"type": "json_schema", "schema": transform_schema(BIKE)}}
    sent = output_config["format"]["schema"]
    assert sent["additionalProperties"] is sent["$defs"]["part"]["additionalProperties"] is False
    assert sent["properties"]["gears"] == {"type": "integer", "description": "{minimum: 1}"}


def test_a_value_that_may_be_null_is_sent_as_a_choice() -> None:
    """A list of types is how most people write it, and the API takes one type at a time."""
    schema = obj(
        a={"type": ["string", "null"], "description": "A name", "format": "date"},
        b={"type": ["object", "null"], "properties": {"c": {"type": ["integer"]}}},
        d={"type": ["string", "null"], "enum": ["x", None]},
    )
    parsed = OutputSchema.parse(schema)

    sent = parsed.wire()["format"]["schema"]["properties"]
    assert sent["a"] == {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "description": "A name"}
    closed = {"type": "object", "properties": {"c": {"type": "integer"}}, "additionalProperties": False}
    assert sent["b"] == {"anyOf": [closed, {"type": "null"}]}
    assert sent["d"] == {"enum": ["x", None]}
    assert isinstance(parsed.check('{"a": null, "b": {"c": 1}, "d": null}'), Structured)
    assert isinstance(parsed.check('{"a": 5}'), Mismatch)


def test_a_schema_stays_as_it_was_when_it_was_read() -> None:
    """Whatever becomes of the mapping that was given, or of what was sent."""
    given_schema = obj(a={"type": "string"})
    parsed = OutputSchema.parse(given_schema)
    given_schema["properties"]["a"]["type"] = "integer"
    parsed.wire()["format"].clear()

    assert isinstance(parsed.check('{"a": "x"}'), Structured)
    assert parsed.wire()["format"]["schema"]["properties"]["a"] == STRING


def test_a_process_that_asks_for_no_structure_does_not_wait_for_it() -> None:
    """The Claude client alone takes about a second to import."""
    code = "import budget_tools.claude.output_schema, sys; print({'anthropic', 'jsonschema'} & sys.modules.keys())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
