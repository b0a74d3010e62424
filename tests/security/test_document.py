"""SECURITY.md names a test for each threat: each must exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_what_is_named_as_shown_is_a_test(file: str, test: str) -> None:
    """A claim whose test is gone is only a claim."""
    assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_row_of_the_threats_names_a_test() -> None:
    """What is not shown belongs under what is not defended."""
    table = DOCUMENT.partition("## Threats")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert not [row for row in rows if "::test_" not in row]
    assert table.count(".py::") == len(re.findall(r"`[\w/]+\.py::test_\w+`", table))
