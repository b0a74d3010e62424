"""One nursery and one remote authority for all fault tests, and a stage for each."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from budget_server.demo.scripted_claude import Answer
from faults.nursery import Nursery
from faults.stage import Authority, Kind, Stage, open_stage, serving_authority
from faults.wire import Wire

SetStage = Callable[[Kind, Sequence[Answer | Wire]], Awaitable[Stage]]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What server processes are forked from."""
    made = Nursery()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """A budget authority in a process of its own."""
    with serving_authority(tmp_path_factory.mktemp("authority")) as served:
        yield served


@pytest.fixture
async def set_stage(tmp_path: Path, nursery: Nursery, authority: Authority) -> AsyncIterator[SetStage]:
    """Sets a stage for a kind of authority and a script."""
    async with AsyncExitStack() as stack:

        async def set_(kind: Kind, script: Sequence[Answer | Wire]) -> Stage:
            return await stack.enter_async_context(
                open_stage(tmp_path, script, kind=kind, nursery=nursery, authority=authority)
            )

        yield set_
