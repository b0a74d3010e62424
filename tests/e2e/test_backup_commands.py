"""A backup is made beside running servers and restored as one step: what it knows comes back, nothing is lost."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import apsw
import pytest
from mcp import Client
from pydantic import SecretStr

from budget_server.auth.tokens import ACCESS_FILE
from budget_server.authority.budgets import fund
from budget_server.authority.keys import all_keys, create, revoke
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.delegations.store import DELEGATIONS_FILE, SqliteDelegationStore
from budget_server.maintenance.backup import MANIFEST
from budget_server.maintenance.consistency import inspect
from budget_server.services import Services
from hosting import ALLOCATED, Environment, call, complaint_of, ledger_balance, run_program
from server.delegations.making import TENANT, started

pytestmark = pytest.mark.anyio

WORKER = Path(__file__).with_name("restoring_worker.py")


def data_of(environment: Environment) -> Path:
    """The data directory."""
    return Path(environment["BUDGET_DATA_DIR"])


def said(environment: Environment, *arguments: str) -> str:
    """Run a command that must succeed, and give what it printed."""
    ended = run_program(environment, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_a_backup_is_made_beside_a_server_and_restored_after_it(
    host: Callable[..., Client], environment: Environment, tmp_path: Path
) -> None:
    """What was spent since is said, and comes back; what was there is kept, and can be put back as well."""
    backup = str(tmp_path / "my backup")
    with anyio.fail_after(120):
        async with host() as client:
            first = await call(client, "record_usage", usd="0.10", action_kind="tool.call", action_name="x")
            assert first["charged"]["amount"] == 10_000_000
            made = await anyio.to_thread.run_sync(said, environment, "backup", backup)
            await call(client, "record_usage", usd="0.25", action_kind="tool.call", action_name="x")
            refused = await anyio.to_thread.run_sync(complaint_of, environment, "restore", backup, "--yes")
    spent = ledger_balance(environment)

    asked = run_program(environment, "restore", backup)
    unchanged = ledger_balance(environment)
    restored = said(environment, "restore", backup, "--yes")
    after = ledger_balance(environment)
    (kept,) = data_of(environment).glob("before-restore-*")
    said(environment, "restore", str(kept), "--yes")

    assert "1 budgets, 0 reservations, 1 events" in made
    assert "is in use: quit the hosts" in refused
    assert spent["spent"] == 35_000_000
    assert (asked.returncode, unchanged) == (1, spent)
    assert "$0.25 was spent" in restored
    assert after == {"allocated": ALLOCATED, "spent": 10_000_000, "reserved": 0, "remaining": 90_000_000}
    assert ledger_balance(environment) == spent
    assert "is sound" in said(environment, "check")


def test_a_backup_is_for_its_owner_alone_and_never_replaces_another(environment: Environment, tmp_path: Path) -> None:
    """Files 0600 in a directory 0700, whatever the umask; what stands in its place stays."""
    said(environment, "budget", "show")
    (data_of(environment) / JOURNAL_DIRECTORY / "of someone").mkdir(parents=True)
    (data_of(environment) / JOURNAL_DIRECTORY / "of someone" / "a.json").write_text("{}")
    said({**environment}, "backup", str(tmp_path / "b"))
    before = tree(tmp_path / "b")

    complaint = complaint_of(environment, "backup", str(tmp_path / "b"))
    nowhere = complaint_of(environment, "backup", str(tmp_path / "none" / "b"))

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in ((tmp_path / "b"), *(tmp_path / "b").rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert set(before) == {LEDGER_FILE, MANIFEST, f"{JOURNAL_DIRECTORY}/of someone/a.json"}
    assert "exists already" in complaint
    assert "No backup could be made" in nowhere
    assert tree(tmp_path / "b") == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".b-")]


def test_what_is_not_sound_is_not_backed_up(environment: Environment, tmp_path: Path) -> None:
    """A backup that could not be restored would be found out too late."""
    said(environment, "budget", "show")
    db = apsw.Connection(str(data_of(environment) / LEDGER_FILE))
    db.execute("UPDATE budgets SET spent = 1, remaining = remaining - 1")
    db.close()

    complaint = complaint_of(environment, "backup", str(tmp_path / "b"))

    assert "is not sound: tenant:local in USD_MICROCENTS has 1 spent" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def outgrow(path: Path) -> None:
    """Make a ledger a later version's."""
    db = apsw.Connection(str(path))
    db.pragma("user_version", 99)
    db.close()


def plain(backup: Path) -> Path:
    """Take away what a backup says of itself, and give its ledger."""
    (backup / MANIFEST).unlink()
    return backup / LEDGER_FILE


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte flipped": (lambda backup: flip(backup / LEDGER_FILE), f"{LEDGER_FILE} was changed"),
    "a file taken away": (lambda backup: (backup / DELEGATIONS_FILE).rename(backup / "x"), "was taken away"),
    "a file added": (lambda backup: (backup / ACCESS_FILE).write_bytes(b""), "was added"),
    "a manifest that cannot be read": (lambda backup: (backup / MANIFEST).write_text("{"), "cannot be read"),
    "a plain copy that is garbled": (lambda backup: plain(backup).write_bytes(b"x" * 9_000), "cannot be read"),
    "a later version's": (lambda backup: outgrow(plain(backup)), "by a later version"),
    "nothing": (shutil.rmtree, "is no backup"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_not_whole_is_not_restored(environment: Environment, tmp_path: Path, name: str) -> None:
    """Refused in one sentence, before anything is changed."""
    said(environment, "budget", "show")
    await SqliteDelegationStore(data_of(environment)).aclose()
    said(environment, "backup", str(tmp_path / "b"))
    break_it, says = BROKEN[name]
    break_it(tmp_path / "b")
    before = tree(data_of(environment))

    complaint = complaint_of(environment, "restore", str(tmp_path / "b"), "--yes")

    assert says in complaint
    assert {each: content for each, content in tree(data_of(environment)).items() if each in before} == before
    assert not list(data_of(environment).glob("restore-*"))


async def test_an_earlier_versions_ledger_is_restored_and_brought_up_to_date(
    environment: Environment, tmp_path: Path
) -> None:
    """A plain copy of a data directory is a backup too, and stays as it is."""
    source = tmp_path / "copy"
    source.mkdir()
    db = apsw.Connection(str(source / LEDGER_FILE))
    frozen = Path(__file__).parents[1] / "server" / "authority" / "ledgers" / "schema_1.sql"
    db.execute(frozen.read_text(encoding="utf-8"))
    db.close()
    before = tree(source)

    restored = said(environment, "restore", str(source), "--yes")

    assert "What was spent since then is not known" in restored
    assert tree(source) == before
    assert "is sound" in said(environment, "check")


async def test_a_ledger_that_cannot_even_be_opened_is_replaced(environment: Environment, tmp_path: Path) -> None:
    """What a backup is for."""
    said(environment, "budget", "show")
    said(environment, "backup", str(tmp_path / "b"))
    (data_of(environment) / LEDGER_FILE).write_bytes(b"garbage" * 1_000)
    assert "cannot be used" in complaint_of(environment, "budget", "show")

    restored = said(environment, "restore", str(tmp_path / "b"), "--yes")

    assert "is not known" in restored
    assert ledger_balance(environment)["remaining"] == ALLOCATED
    (kept,) = data_of(environment).glob("before-restore-*")
    assert (kept / LEDGER_FILE).read_bytes() == b"garbage" * 1_000


async def test_the_log_of_a_ledger_that_was_killed_does_not_meet_the_one_that_is_restored(
    environment: Environment, tmp_path: Path
) -> None:
    """SQLite would play it over the other file; it is kept with the ledger that it belongs to."""
    data = data_of(environment)
    said(environment, "budget", "show")
    said(environment, "backup", str(tmp_path / "b"))
    store = LedgerStore(data / LEDGER_FILE)
    store.run(lambda opened: fund(opened.db, scope="tenant:local", unit="USD_MICROCENTS", amount=5))
    shutil.copytree(data, tmp_path / "killed")
    store.close()
    shutil.rmtree(data)
    (tmp_path / "killed").rename(data)
    assert (data / f"{LEDGER_FILE}-wal").stat().st_size > 0

    said(environment, "restore", str(tmp_path / "b"), "--yes")
    restored = ledger_balance(environment)
    (kept,) = data.glob("before-restore-*")
    said(environment, "restore", str(kept), "--yes")

    assert restored["allocated"] == ALLOCATED
    assert ledger_balance(environment)["allocated"] == ALLOCATED + 5


async def test_what_was_revoked_since_stays_revoked(environment: Environment, tmp_path: Path) -> None:
    """Nobody is let in again by a restore: neither by a token nor by a key of the HTTP face."""
    ledger = data_of(environment) / LEDGER_FILE
    said(environment, "token", "create", "--name", "laptop")
    store = LedgerStore(ledger)
    key, _ = store.run(lambda opened: create(opened.db, tenant="local", name="x", now_ms=1, expires_at_ms=None))
    store.close()
    said(environment, "backup", str(tmp_path / "b"))
    token_id = said(environment, "token", "list").split()
    (prefix,) = {word for word in token_id if word.startswith("cbm_")}
    said(environment, "token", "revoke", prefix)
    store = LedgerStore(ledger)
    store.run(lambda opened: revoke(opened.db, key.key_id, now_ms=2))
    store.close()
    revoked = said(environment, "token", "list")

    said(environment, "restore", str(tmp_path / "b"), "--yes")

    assert said(environment, "token", "list") == revoked
    store = LedgerStore(ledger)
    (found,) = store.run(lambda opened: all_keys(opened.db))
    store.close()
    assert found.revoked_at_ms is not None


async def test_a_delegation_that_ran_when_it_was_backed_up_is_settled_and_does_not_run(
    environment: Environment, tmp_path: Path
) -> None:
    """Nobody runs it any more, even where its owner's file is gone; so the next start settles it as after a crash."""
    data = data_of(environment)
    said(environment, "budget", "show")
    running = SqliteDelegationStore(data)
    await started(running, "d")
    said(environment, "backup", str(tmp_path / "b"))
    await running.aclose()
    shutil.rmtree(data)

    said(environment, "restore", str(tmp_path / "b"), "--yes")
    services = Services(Settings(budget_data_dir=data, anthropic_api_key=SecretStr("test")))
    await services.settle_orphans()
    delegation = await services.delegation_store.find(TENANT, "d")
    await services.aclose()

    assert (delegation.status, delegation.task.task) == ("failed", "Sort it.")


async def test_a_restore_that_is_killed_at_any_step_leaves_all_of_the_old_or_all_of_the_new(
    environment: Environment, tmp_path: Path
) -> None:
    """Before each change of a name it is killed once; whoever opens the directory next finishes what was decided."""
    data = data_of(environment)
    for name in ("new", "old"):
        environment["BUDGET_USD"] = {"new": "2.00", "old": "1.00"}[name]
        said(environment, "budget", "show")
        store = SqliteDelegationStore(data)
        await started(store, name)
        await store.aclose()
        (data / JOURNAL_DIRECTORY).mkdir()
        (data / JOURNAL_DIRECTORY / f"{name}.json").write_text(json.dumps(name))
        if name == "new":
            said(environment, "backup", str(tmp_path / "b"))
            shutil.rmtree(data)
    ended = await anyio.run_process(
        [sys.executable, str(WORKER), str(data), str(tmp_path / "b"), str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    steps = int(ended.stdout)
    assert steps > 12

    found = []
    for step in range(steps):
        killed = tmp_path / "killed" / str(step)
        # Either file may be the first to be opened, by whoever comes next.
        if step % 2:
            LedgerStore(killed / LEDGER_FILE).close()
        store = SqliteDelegationStore(killed)
        (delegation,), _ = await store.list(TENANT)
        await store.aclose()
        allocated = ledger_balance({"BUDGET_DATA_DIR": str(killed)})["allocated"]
        (journal,) = (killed / JOURNAL_DIRECTORY).iterdir()
        is_new = delegation.delegation_id == "new"
        assert (allocated, journal.stem) == ((200_000_000, "new") if is_new else (100_000_000, "old")), step
        assert inspect(killed, None).findings == [], step
        found.append(is_new)
    assert found == sorted(found)  # old until it is decided, new from then on
    assert {*found} == {False, True}
