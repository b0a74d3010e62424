"""A file that an earlier version wrote opens, with everything that was in it, and its keys still replay."""

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from budget_server.authority.audit import audit
from budget_server.authority.schema import MIGRATIONS
from contract.answers import body_of
from contract.harness import BOT, LEAF, ROOT, Clock
from contract.local import opened

pytestmark = pytest.mark.anyio

WRITTEN_MS = 1_795_000_002_000
"""When the files under ``ledgers`` were written."""

LEDGERS = Path(__file__).with_name("ledgers")
WORKER = Path(__file__).with_name("worker.py")


def restored(version: int, path: Path) -> Path:
    """Make a ledger of an earlier schema from its frozen text."""
    db = apsw.Connection(str(path))
    db.execute((LEDGERS / f"schema_{version}.sql").read_text(encoding="utf-8"))
    db.pragma("journal_mode", "wal")
    assert db.pragma("user_version") == version
    db.close()
    return path


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_an_earlier_ledger_opens_with_all_that_was_in_it(version: int, tmp_path: Path) -> None:
    """Every amount, every state, and every first answer."""
    path = restored(version, tmp_path / "ledger.db")

    with opened(path, Clock(WRITTEN_MS + 1_000)) as authority:
        assert await authority.amounts(ROOT) == "913/10/77/0"
        assert await authority.amounts(LEAF) == "420/10/70/0"
        states = authority.sql("SELECT idempotency_key, state FROM reservations ORDER BY idempotency_key")
        replayed = body_of(await authority.reserve(10, BOT, key="active", ttl_ms=60_000))
        committed = await authority.commit(replayed["reservation_id"], 4)

        assert dict(states) == {
            "active": "ACTIVE",
            "charged": "COMMITTED",
            "committed": "COMMITTED",
            "expired": "EXPIRED",
            "released": "RELEASED",
        }
        assert replayed["remaining_ttl_ms"] == 57_000
        assert committed.status == 200
        assert await authority.amounts(LEAF) == "426/0/74/0"
    assert audit(path, WRITTEN_MS + 1_000).findings == []


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_process_that_is_killed_while_it_migrates_leaves_the_earlier_ledger(version: int, tmp_path: Path) -> None:
    """All of the migrations are one transaction: a kill -9 anywhere in them leaves the file as it was."""
    path = restored(version, tmp_path / "ledger.db")
    versions: list[int] = []
    while not versions or versions[-1] == version:
        steps = 1 + 500 * len(versions)
        subprocess.run(
            [sys.executable, str(WORKER), "die_opening", str(path), str(steps)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=30,
            check=False,
        )
        db = apsw.Connection(str(path))
        versions.append(int(db.pragma("user_version")))
        assert db.pragma("integrity_check") == "ok"
        db.close()

    assert len(versions) > 5, "it was killed in the middle, and not only before"
    assert versions[-1] == len(MIGRATIONS)
    assert audit(path, WRITTEN_MS).findings == []


def test_there_is_a_frozen_ledger_of_every_earlier_schema() -> None:
    """Whoever adds a migration freezes a ledger of the schema before it."""
    assert {path.name for path in LEDGERS.iterdir()} == {f"schema_{n}.sql" for n in range(1, len(MIGRATIONS))}
