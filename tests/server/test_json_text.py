"""Editing a JSON text where it stands."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget_server.hosts.json_edit import put, replace_strings, take, value_at
from budget_tools.core.errors import InvalidArgumentError

KEYS = ("mcpServers", "budget")
ENTRY = {"command": "/bin/ours", "args": [], "env": {"BUDGET_USD": "5"}}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SERVERS = st.dictionaries(st.text().filter(lambda name: name != "budget"), JSON, max_size=4)
OBJECTS = st.builds(
    lambda outer, servers: {**outer, **({} if servers is None else {"mcpServers": servers})},
    st.dictionaries(st.text().filter(lambda key: key != "mcpServers"), JSON, max_size=4),
    st.none() | SERVERS,
)
LAYOUTS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {"indent": 2}, {"indent": 4}, {"indent": "\t"}, {"separators": (",", ":")}, {"indent": 0}]
)


@given(OBJECTS, LAYOUTS, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n", " \n\n"]))
def test_what_is_put_in_stands_there_and_all_else_as_it_stood(
    before: dict[str, Any], layout: dict[str, Any], is_ascii: bool, newline: str, ending: str
) -> None:
    """Whatever object stands in a host's file: others keep their order, and their spelling to the letter."""
    text = json.dumps(before, ensure_ascii=is_ascii, **layout).replace("\n", newline) + ending

    after = put(text, KEYS, ENTRY)

    expected = {**before, "mcpServers": {**before.get("mcpServers", {}), "budget": ENTRY}}
    assert json.dumps(json.loads(after)) == json.dumps(expected)
    assert value_at(after, KEYS) == ENTRY
    assert put(after, KEYS, ENTRY) == after
    if before.get("mcpServers"):
        assert take(after, KEYS) == text
    else:
        assert json.loads(take(after, KEYS)) == {"mcpServers": {}, **before}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1.50e3}', '{"a":1.50e3,"mcpServers":{"budget":{"command":"x"}}}'),
        ('{"a": 1}', '{"a": 1, "mcpServers": {"budget": {"command": "x"}}}'),
        ("", '{\n  "mcpServers": {\n    "budget": {\n      "command": "x"\n    }\n  }\n}\n'),
        (
            '{\n\t"mcpServers": {}\n}\n',
            '{\n\t"mcpServers": {\n\t\t"budget": {\n\t\t\t"command": "x"\n\t\t}\n\t}\n}\n',
        ),
        (
            '{\r\n    "mcpServers": {\r\n        "\\u0061": {}\r\n    }\r\n}',
            (
                '{\r\n    "mcpServers": {\r\n        "\\u0061": {},\r\n'
                '        "budget": {\r\n            "command": "x"\r\n        }\r\n    }\r\n}'
            ),
        ),
        (
            '{\n  "mcpServers": {"budget": {"command": "old"}, "b": {}}\n}',
            '{\n  "mcpServers": {"budget": {"command": "x"}, "b": {}}\n}',
        ),
    ],
)
def test_what_is_put_in_is_laid_out_as_its_neighbours_are(text: str, expected: str) -> None:
    """People read their own files: indentation, line ends and spaces are theirs."""
    assert put(text, KEYS, {"command": "x"}) == expected


def test_the_first_of_several_leaves_the_others_as_they_stood() -> None:
    """An entry that a person wrote by hand may stand anywhere."""
    text = '{"mcpServers": {\n  "budget": {}, "b": 1,\n  "c": 2}}'

    assert take(text, KEYS) == '{"mcpServers": {\n  "b": 1,\n  "c": 2}}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,}', "not plain JSON (line 1"),
        ('{\n// comment\n"a": 1}', "not plain JSON (line 2"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[1]", "does not hold a JSON object"),
        ('{"mcpServers": []}', "'mcpServers', which is not an object"),
        ('{"mcpServers": {"budget": 5}}', "'mcpServers.budget', which is not an object"),
        ('{"mcpServers": {}, "mcpServers": {}}', "'mcpServers' twice"),
        ('{"mcpServers": {"budget": {}, "budget": {}}}', "'budget' twice"),
        ('{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_a_text_that_cannot_be_edited_surely_is_refused(text: str, says: str) -> None:
    """A guess would be somebody else's configuration lost."""
    for attempt in (lambda: value_at(text, KEYS), lambda: put(text, KEYS, ENTRY), lambda: take(text, KEYS)):
        with pytest.raises(InvalidArgumentError) as caught:
            attempt()
        assert says in str(caught.value)


def test_what_is_not_there_cannot_be_taken_out() -> None:
    """Taking nothing out in silence would hide a wrong name."""
    with pytest.raises(InvalidArgumentError, match=r"has no mcpServers\.budget"):
        take('{"mcpServers": {"b": {}}}', KEYS)


@given(OBJECTS, LAYOUTS)
def test_every_string_can_be_hidden(found: dict[str, Any], layout: dict[str, Any]) -> None:
    """What is shown of a file may hold secrets anywhere; its keys and its numbers stay."""

    def hide(value: Any) -> Any:
        match value:
            case str():
                return "-"
            case list():
                return [hide(each) for each in value]
            case dict():
                return {key: hide(each) for key, each in value.items()}
            case other:
                return other

    assert json.loads(replace_strings(json.dumps(found, **layout), lambda _keys, _value: "-")) == hide(found)
