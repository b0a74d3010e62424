"""The delegations file: who may read it, what is refused to be one, and what happens when it cannot be written."""

import os
import stat
from pathlib import Path

import apsw
import pytest

from budget_server.authority.store import LedgerStore
from budget_server.delegations.store import DELEGATIONS_FILE, SqliteDelegationStore
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError
from budget_tools.delegation.store import Message, Step
from server.delegations.making import TENANT, started

pytestmark = pytest.mark.anyio


async def test_all_of_it_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """Files 0600 and directories 0700, whatever the umask."""
    umask = os.umask(0)
    try:
        store = SqliteDelegationStore(tmp_path / "data")
        await started(store, "d")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
        await store.aclose()
    finally:
        os.umask(umask)

    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if not path.is_dir()} == {0o600}
    assert {path.name for path in modes} >= {DELEGATIONS_FILE, f"{DELEGATIONS_FILE}-wal", "owners"}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_ledger_in_its_place_is_refused(tmp_path: Path) -> None:
    """Each file has its own mark."""
    LedgerStore(tmp_path / DELEGATIONS_FILE).close()

    with pytest.raises(ConfigurationError, match="is not a delegation store"):
        SqliteDelegationStore(tmp_path)


async def test_a_file_that_was_emptied_is_refused(tmp_path: Path) -> None:
    """What was in flight would be forgotten."""
    await SqliteDelegationStore(tmp_path).aclose()
    os.truncate(tmp_path / DELEGATIONS_FILE, 0)

    with pytest.raises(ConfigurationError, match="is empty, though it had delegations"):
        SqliteDelegationStore(tmp_path)


async def test_a_full_disk_is_one_sentence_and_changes_nothing(store: SqliteDelegationStore) -> None:
    """STORAGE_UNAVAILABLE: a BudgetError, as every tool answers it."""
    await started(store, "d")
    pages = await store._file.run(lambda view: view._db.pragma("page_count"))
    await store._file.run(lambda view: view._db.pragma("max_page_count", int(pages) + 4))

    with pytest.raises(StorageUnavailableError) as refusal:
        await store.write("d", Step(text="Words.", messages=[Message(role="user", content="x" * 100_000)]))

    assert refusal.value.code == "STORAGE_UNAVAILABLE"
    assert refusal.value.message.startswith("The delegation store ")
    assert refusal.value.message.endswith(".")
    assert (await store.find(TENANT, "d")).text == ""
    await store._file.run(lambda view: view._db.pragma("max_page_count", 1_000_000))
    await store.write("d", Step(text="Words."))


async def test_a_file_that_another_holds_is_one_sentence(tmp_path: Path, store: SqliteDelegationStore) -> None:
    """Somebody at a database shell."""
    shell = apsw.Connection(str(tmp_path / DELEGATIONS_FILE))
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError):
        await started(store, "d")
    shell.execute("ROLLBACK")
    shell.close()

    assert (await started(store, "d")).is_new


async def test_after_closing_every_call_is_answered(tmp_path: Path) -> None:
    """A call that comes too late gets an answer at once."""
    store = SqliteDelegationStore(tmp_path)
    await store.aclose()

    with pytest.raises(StorageUnavailableError, match="closed"):
        await started(store, "d")
