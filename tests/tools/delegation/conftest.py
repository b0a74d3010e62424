"""A bench for every test, whose books are checked when it ends."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tools.delegation.harness import Bench, OpenBench, open_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[OpenBench]:
    """Opens a bench for a script; see ``open_bench``."""
    async with AsyncExitStack() as opened:

        async def open_(*arguments: Any, **settings: Any) -> Bench:
            return await opened.enter_async_context(open_bench(tmp_path, *arguments, **settings))

        yield open_
