"""A limit of time for tests of the scripted Claude: several of them are about silence."""

from collections.abc import AsyncIterator

import anyio
import pytest


@pytest.fixture
async def in_time() -> AsyncIterator[None]:
    """Fail instead of waiting for ever."""
    with anyio.fail_after(5):
        yield
