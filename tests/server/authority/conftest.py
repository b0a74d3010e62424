"""The authorities that the contract tests run against."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from server.authority.harness import Authority, Clock, opened

settings.register_profile("nightly", max_examples=2_000)


@pytest.fixture
def clock() -> Clock:
    """A wall clock that stands until the test moves it."""
    return Clock()


@pytest.fixture(params=["embedded"])
def authority(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Authority]:
    """An authority without any budget; its invariants are checked when the test is over."""
    assert request.param == "embedded"
    with opened(tmp_path / "data" / "ledger.db", clock) as subject:
        yield subject
