"""Every test here ends soon: several of them are about silence."""

from collections.abc import AsyncIterator

import anyio
import pytest


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    """Fail instead of waiting for ever."""
    with anyio.fail_after(5):
        yield
