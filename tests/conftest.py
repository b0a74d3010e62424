"""What every test may use."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, which uvicorn and the MCP SDK's stdio transport are used with."""
    return "asyncio"
