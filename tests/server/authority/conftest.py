"""The embedded authority and the HTTP face, for what is tested of each alone."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contract.face import Face, plain_loopback
from contract.harness import Clock
from contract.local import EmbeddedAuthority, HttpAuthority, opened


@pytest.fixture
def clock() -> Clock:
    """A wall clock that stands until the test moves it."""
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedAuthority]:
    """An authority without any budget; its invariants are checked when the test is over."""
    with opened(tmp_path / "data" / "ledger.db", clock) as embedded:
        yield embedded


@pytest.fixture
def http(tmp_path: Path, clock: Clock, face: Face, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpAuthority]:
    """The HTTP face over a ledger without any budget; its invariants are checked when the test is over."""
    plain_loopback(monkeypatch, tmp_path)
    served = HttpAuthority(tmp_path / "data" / "ledger.db", clock, face)
    yield served
    served.close()


@pytest.fixture
def wire(http: HttpAuthority) -> Iterator[httpx.Client]:
    """One connection to the face, with the key of tenant ``acme``."""
    headers = {"X-Cycles-API-Key": http.config.api_key}
    with httpx.Client(base_url=http.config.base_url, headers=headers, timeout=10) as client:
        yield client
