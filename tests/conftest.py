"""What every test may use."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from contract.face import Face

settings.register_profile("nightly", max_examples=2_000)


def pytest_configure() -> None:
    """Heed SIGINT again: a suite in the background of a shell, and every server that it interrupts, would ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, which uvicorn and the MCP SDK's stdio transport are used with."""
    return "asyncio"


@pytest.fixture(scope="session")
def face() -> Iterator[Face]:
    """A socket that the HTTP face is reached at."""
    with Face().serving() as serving:
        yield serving
