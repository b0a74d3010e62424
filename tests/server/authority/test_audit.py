"""The auditor: silent over a sound ledger, and a sentence for every corruption that is planted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import apsw
import pytest

from budget_server.authority.audit import audit
from budget_server.authority.store import LedgerStore
from budget_server.database.audit import MAX_FINDINGS
from contract.harness import BOT, LEAF, NOON_MS, ROOT, Clock
from contract.local import opened

Plant = Callable[..., list[str]]

PAGE_BYTES = 4_096
SPENT = f"{LEAF}/toolset:spent"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger in which everything has happened once."""
    path = tmp_path / "ledger.db"
    anyio.run(write, path)
    return path


async def write(path: Path) -> None:
    """Let everything happen."""
    clock = Clock()
    with opened(path, clock) as authority:
        authority.set_budget(ROOT, 1_000, overdraft_limit=50)
        authority.set_budget(LEAF, 500)
        await authority.reserved(10, BOT)
        await authority.commit(await authority.reserved(20, BOT), 25, key="commit")
        await authority.release(await authority.reserved(30, BOT))
        await authority.reserved(40, BOT, ttl_ms=1_000, grace_period_ms=0)
        await authority.reserved(50, BOT, ttl_ms=1_000, grace_period_ms=0, metadata={"on_expiry": "charge"})
        await authority.event(5, BOT)
        authority.set_budget(SPENT, 0)
        await authority.event(5, {**BOT, "toolset": "spent"})  # nothing is there to be charged
        clock.now_ms += 2_000
        late = await authority.reserved(60, BOT, ttl_ms=1_000, grace_period_ms=0, metadata={"on_expiry": "charge"})
        clock.now_ms += 2_000
        await authority.commit(late, 70)


TWICE = (
    "INSERT INTO idempotency SELECT tenant, endpoint, resource, 'another', payload_sha256, status, body, 0"
    " FROM idempotency WHERE idempotency_key = 'commit'"
)


@pytest.fixture
def plant(ledger: Path) -> Iterator[Plant]:
    """Break a ledger as no operation could, checks of the tables switched off, and audit it."""
    db = apsw.Connection(str(ledger))
    db.pragma("ignore_check_constraints", 1)

    def break_it(statement: str, *values: "apsw.SQLiteValue") -> list[str]:
        db.execute(statement, values)
        assert db.changes() > 0, "nothing was planted"
        return audit(ledger, NOON_MS + 10_000).findings

    yield break_it
    db.close()


def test_a_sound_ledger_has_no_findings(ledger: Path) -> None:
    """Everything that can happen to a reservation leaves the books in order."""
    result = audit(ledger, NOON_MS + 10_000)

    assert result == ([], 3, 6, 2)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE budgets SET remaining = remaining + 1 WHERE scope = 'tenant:acme'", "does not add up"),
        ("UPDATE budgets SET reserved = 11, remaining = remaining - 1 WHERE scope = 'tenant:acme'", "hold 10"),
        ("UPDATE budgets SET spent = spent - 1, remaining = remaining + 1", "was charged"),
        ("UPDATE budgets SET spent = spent - 1, debt = debt + 1 WHERE spent > 0", None),
        ("UPDATE reservations SET estimate = 11 WHERE state = 'ACTIVE'", "hold 11"),
        ("UPDATE reservations SET charged = 26 WHERE charged = 25", "was charged"),
        ("UPDATE reservations SET state = 'ACTIVE', settled_by = NULL WHERE state = 'EXPIRED'", "hold 50"),
        ("UPDATE reservations SET state = 'EXPIRED', settled_by = 'expiry' WHERE state = 'RELEASED'", "RELEASED"),
        ("DELETE FROM reservations WHERE state = 'RELEASED'", "is gone"),
        ("DELETE FROM events", "was charged"),
        ("DELETE FROM budgets WHERE scope = 'tenant:acme/agent:bot'", "no such budget"),
        ("UPDATE idempotency SET body = json_set(body, '$.charged.amount', 24) WHERE idempotency_key = 'commit'",
         "answered COMMITTED with 24"),
        (TWICE, "settled 2 times"),
        ("DELETE FROM idempotency WHERE endpoint = 'release'", "nobody was answered"),
        ("UPDATE clock SET now_ms = now_ms + 3600000", "ahead of this machine's clock"),
    ],
)  # fmt: skip
def test_what_is_planted_is_found(plant: Plant, statement: str, says: str | None) -> None:
    """Cycles v0, LEDGER INVARIANTS: each of them, broken once."""
    findings = plant(statement)

    if says is None:  # what was charged can be told from what was used, not from how it was paid for
        assert findings == []
    else:
        assert any(says in finding for finding in findings), findings


def test_many_findings_are_told_up_to_a_bound(plant: Plant) -> None:
    """A broken file can have one for every row."""
    findings = plant(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        " INSERT INTO budgets (scope, unit, tenant, allocated, remaining, reserved)"
        " SELECT 'tenant:t' || i, 'TOKENS', 'x', 5, 5, 1 FROM n"
    )

    assert len(findings) == MAX_FINDINGS


def test_tables_that_were_changed_are_found(plant: Plant) -> None:
    """A ledger is what its migrations make of it."""
    assert any("migrations" in each for each in audit_after_drop(plant))


def audit_after_drop(plant: Plant) -> list[str]:
    """Drop an index, which changes no row."""
    plant("UPDATE clock SET now_ms = now_ms")
    return plant("UPDATE clock SET now_ms = now_ms; DROP INDEX reservations_by_key")


def test_damage_in_any_page_of_the_file_is_found(ledger: Path, tmp_path: Path) -> None:
    """A page that a disk has garbled: said, never guessed at."""
    LedgerStore(ledger).close()  # folds the write-ahead log into the file
    sound = ledger.read_bytes()
    damaged = tmp_path / "damaged.db"
    pages = len(sound) // PAGE_BYTES
    for page in range(pages):
        start = page * PAGE_BYTES
        damaged.write_bytes(sound[:start] + os.urandom(PAGE_BYTES) + sound[start + PAGE_BYTES :])
        try:
            findings = audit(damaged, NOON_MS + 10_000).findings
        except apsw.Error:
            findings = ["it cannot even be read"]
        assert findings, f"page {page + 1} of {pages}"


def test_it_reads_one_moment_beside_servers_that_work(ledger: Path) -> None:
    """Servers may go on: an open transaction is not seen, and nobody waits."""
    with opened(ledger, Clock(NOON_MS + 5_000)) as authority:
        during: list[list[str]] = []

        def half_done(_: object) -> None:
            authority.writer._file._db.execute("UPDATE budgets SET spent = spent + 1, remaining = remaining - 1")
            during.append(audit(ledger, NOON_MS + 10_000).findings)
            raise RuntimeError("undo")

        with pytest.raises(RuntimeError, match="undo"):
            authority.run(half_done)

        assert during == [[]]
