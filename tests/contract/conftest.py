"""The subjects of the contract: ``embedded``, ``http``, and where CYCLES_BASE_URL names one, ``server``.

CYCLES_ADMIN_API_KEY belongs with CYCLES_BASE_URL; CYCLES_ADMIN_URL is the same host's port 7979 where it is not set.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from contract.face import plain_loopback
from contract.harness import Authority, Clock
from contract.local import HttpAuthority, opened
from contract.remote import CyclesServer, ServerAuthority

SUBJECTS = ["embedded", "http", *(["server"] if os.environ.get("CYCLES_BASE_URL") else [])]


@pytest.fixture
def clock() -> Clock:
    """A wall clock that stands until the test moves it."""
    return Clock()


@pytest.fixture(scope="session")
def cycles_server() -> Iterator[CyclesServer]:
    """The Cycles server that the environment names."""
    base_url = os.environ["CYCLES_BASE_URL"]
    admin_url = os.environ.get("CYCLES_ADMIN_URL") or f"http://{urlsplit(base_url).hostname}:7979"
    server = CyclesServer(base_url=base_url, admin_url=admin_url, admin_key=os.environ["CYCLES_ADMIN_API_KEY"])
    yield server
    server.close()


@pytest.fixture(params=SUBJECTS)
async def authority(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Authority]:
    """An authority without any budget; what must hold of every ledger is checked when the test is over."""
    plain_loopback(monkeypatch, tmp_path)
    if request.param == "embedded":
        with opened(tmp_path / "data" / "ledger.db", clock) as embedded:
            yield embedded
    elif request.param == "http":
        http = HttpAuthority(tmp_path / "data" / "ledger.db", clock, request.getfixturevalue("face"))
        yield http
        await http.aclose()
    else:
        server = ServerAuthority(request.getfixturevalue("cycles_server"), tmp_path / "data")
        yield server
        await server.aclose()
