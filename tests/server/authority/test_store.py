"""The ledger file: who may read it, what is refused to be one, and what happens when it cannot be written."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from budget_server.authority.budgets import allocate_first
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import LedgerUnavailableError
from budget_server.authority.schema import MIGRATIONS
from budget_server.authority.store import LedgerStore
from budget_tools.core.errors import ConfigurationError
from contract.answers import assert_refused, body_of
from contract.harness import NOON_MS, ROOT, Clock
from contract.local import EmbeddedAuthority, opened


def refused(path: Path) -> str:
    """Open what cannot be a ledger and give the sentence."""
    with pytest.raises(ConfigurationError) as refusal:
        LedgerStore(path, clock=Clock())
    message = refusal.value.message
    assert message.endswith(".")
    assert "\n" not in message
    assert str(path.parent.name) in message
    return message


def no_budgets(ledger: Ledger) -> int:
    """Count budgets."""
    count = ledger.db.execute("SELECT count(*) FROM budgets").get
    assert isinstance(count, int)
    return count


# -- whose it is ------------------------------------------------------------------------------------------------------


def test_the_ledger_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """Files 0600 and directory 0700 while it is open, whatever the umask."""
    umask = os.umask(0)
    try:
        with opened(tmp_path / "data" / "ledger.db", Clock()) as authority:
            authority.set_budget(ROOT, 1)
            files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.path.parent.glob("ledger*")}
            directory = stat.S_IMODE(authority.path.parent.stat().st_mode)
    finally:
        os.umask(umask)

    assert set(files) == {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.gate", "ledger.db.lock"}
    assert set(files.values()) == {0o600}
    assert directory == 0o700


def test_a_directory_that_is_a_link_is_followed(tmp_path: Path) -> None:
    """A home directory is often behind a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    LedgerStore(tmp_path / "link" / "ledger.db", clock=Clock()).close()

    assert (tmp_path / "real" / "ledger.db").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_ledger_that_is_a_link_is_refused(tmp_path: Path, *, exists: bool) -> None:
    """Its locks would stand beside the link, not beside the file."""
    if exists:
        LedgerStore(tmp_path / "real.db", clock=Clock()).close()
    (tmp_path / "ledger.db").symlink_to(tmp_path / "real.db")

    assert "symbolic link" in refused(tmp_path / "ledger.db")
    assert (tmp_path / "real.db").exists() == exists


# -- what is no ledger ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path, journal_mode: str) -> None:
    """Not a byte of it changes, not even its journal mode."""
    path = tmp_path / "ledger.db"
    other = apsw.Connection(str(path))
    other.pragma("journal_mode", journal_mode)
    other.execute("CREATE TABLE invoices (number INTEGER); INSERT INTO invoices VALUES (7)")
    other.close()
    before = path.read_bytes()

    assert "not a budget ledger" in refused(path)

    assert path.read_bytes() == before


def test_a_text_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Something that happens to have the name."""
    path = tmp_path / "ledger.db"
    path.write_text("Dear diary,\n" * 500)

    assert "not a database" in refused(path)

    assert path.read_text() == "Dear diary,\n" * 500


def test_a_later_versions_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """A downgrade says what to do instead of guessing."""
    path = tmp_path / "ledger.db"
    LedgerStore(path, clock=Clock()).close()
    later = apsw.Connection(str(path))
    later.pragma("user_version", 99)
    later.close()
    before = path.read_bytes()

    message = refused(path)

    assert "later version" in message
    assert "upgrade" in message
    assert path.read_bytes() == before


def test_a_ledger_that_was_emptied_is_refused_and_one_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    """An empty file is not a new one: to begin anew there would grant the first budget a second time."""
    path = tmp_path / "ledger.db"
    LedgerStore(path).close()
    os.truncate(path, 0)

    with pytest.raises(ConfigurationError, match="is empty, though it had budgets"):
        LedgerStore(path)
    assert path.read_bytes() == b""

    path.unlink()
    LedgerStore(path).close()
    LedgerStore(path).close()


def test_a_directory_in_the_ledgers_place_is_refused(tmp_path: Path) -> None:
    """Also where it is a lock's place."""
    (tmp_path / "ledger.db").mkdir()
    refused(tmp_path / "ledger.db")
    (tmp_path / "other.db.lock").mkdir()
    refused(tmp_path / "other.db")


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """BUDGET_DATA_DIR names a file, or something below one."""
    (tmp_path / "file").write_text("")

    assert "BUDGET_DATA_DIR" in refused(tmp_path / "file" / "ledger.db")
    assert "BUDGET_DATA_DIR" in refused(tmp_path / "file" / "below" / "ledger.db")


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Whom permissions bind; the super-user takes another's place for a while, once the test has its directory."""
    assert tmp_path.is_dir()
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("ordinary_user")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """BUDGET_DATA_DIR is somebody else's."""
    if os.access(tmp_path, os.W_OK, effective_ids=True):
        (tmp_path / "data").mkdir(mode=0o500)

    message = refused(tmp_path / "data" / "ledger.db")

    assert "cannot be written" in message
    assert "BUDGET_DATA_DIR" in message


# -- opening again ----------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """Durable, and stamped with its schema's version."""
    path = tmp_path / "ledger.db"
    store = LedgerStore(path, clock=Clock())
    assert store.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="TOKENS", amount=5)) is None
    store.close()

    again = LedgerStore(path, clock=Clock())

    before = again.run(lambda ledger: allocate_first(ledger.db, tenant="ACME", unit="TOKENS", amount=9))
    assert before is not None
    assert before.allocated == 5
    assert again.run(lambda ledger: ledger.db.pragma("user_version")) == len(MIGRATIONS)
    again.close()


@pytest.mark.anyio
async def test_time_is_remembered_by_the_file(tmp_path: Path) -> None:
    """A clock set back between two starts does not set the ledger back."""
    clock = Clock()
    with opened(tmp_path / "ledger.db", clock) as authority:
        authority.set_budget(ROOT, 10)

    clock.now_ms -= 3_600_000
    with opened(tmp_path / "ledger.db", clock) as authority:
        body = body_of(await authority.reserve(1, ttl_ms=1_000))

        assert body["expires_at_ms"] == NOON_MS + 1_000
        assert authority.sql("SELECT now_ms FROM clock") == [(NOON_MS,)]


@pytest.mark.anyio
async def test_time_that_was_only_read_is_not_taken_back_either(tmp_path: Path) -> None:
    """What a process has said of leases at one moment holds afterwards, though that moment wrote nothing down."""
    clock = Clock()
    with opened(tmp_path / "ledger.db", clock) as authority:
        authority.set_budget(ROOT, 10)
        clock.now_ms += 3_600_000
        await authority.balances(tenant="acme")

        clock.now_ms -= 3_600_000
        body = body_of(await authority.reserve(1, ttl_ms=1_000))

        assert body["expires_at_ms"] == NOON_MS + 3_601_000


def test_two_stores_of_one_process_share_one_file(tmp_path: Path) -> None:
    """Each sees what the other wrote; closing one takes no lock from the other."""
    path = tmp_path / "ledger.db"
    one, two = LedgerStore(path, clock=Clock()), LedgerStore(path, clock=Clock(), lock_deadline_seconds=0.05)
    one.run(lambda ledger: allocate_first(ledger.db, tenant="acme", unit="TOKENS", amount=5))
    assert two.run(no_budgets) == 1

    def meanwhile(_: Ledger) -> None:
        with pytest.raises(LedgerUnavailableError, match="busy"):
            two.run(no_budgets)
        two.close()
        third = apsw.Connection(str(path))
        with pytest.raises(apsw.BusyError):
            third.execute("BEGIN IMMEDIATE")
        third.close()

    one.run(meanwhile)

    assert one.run(no_budgets) == 1
    one.close()


def test_a_wait_that_was_given_up_keeps_nobody_out(tmp_path: Path) -> None:
    """What the kernel grants to one that is no longer waited for is let go at once; and its store waits again."""
    path = tmp_path / "ledger.db"
    one, two, three = LedgerStore(path), LedgerStore(path, lock_deadline_seconds=0.05), LedgerStore(path)

    def meanwhile(_: Ledger) -> None:
        for _attempt in range(2):
            with pytest.raises(LedgerUnavailableError, match="busy"):
                two.run(no_budgets)

    one.run(meanwhile)

    assert three.run(no_budgets) == 0
    assert two.run(no_budgets) == 0
    for store in (one, two, three):
        store.close()


@pytest.mark.anyio
async def test_a_full_disk_is_an_answer_and_changes_nothing(tmp_path: Path) -> None:
    """503, the same key again once there is room; neighbours of the group are told the same."""
    with opened(tmp_path / "ledger.db", Clock()) as authority:
        authority.set_budget(ROOT, 1_000)
        held = await authority.reserved(100)
        pages = authority.run(lambda ledger: ledger.db.pragma("page_count"))
        authority.run(lambda ledger: ledger.db.pragma("max_page_count", pages + 4))
        big = {"blob": "x" * 100_000}
        before = await authority.amounts()

        reserve = await authority.reserve(1, key="k", metadata=big)
        commit = await authority.commit(held, 50, key="c", metadata=big)

        assert_refused(reserve, 503, "INTERNAL_ERROR")
        assert "could not be written" in str(reserve.error_message)
        assert_refused(commit, 503, "INTERNAL_ERROR")
        assert await authority.amounts() == before
        authority.run(lambda ledger: ledger.db.pragma("max_page_count", 1_000_000))
        assert (await authority.reserve(1, key="k", metadata=big)).status == 200
        assert (await authority.commit(held, 50, key="c", metadata=big)).status == 200


@pytest.mark.anyio
async def test_a_tool_that_holds_sqlites_own_lock_is_an_answer_too(
    tmp_path: Path, authority: EmbeddedAuthority
) -> None:
    """Somebody at a database shell: 503 after a second, nothing written."""
    authority.set_budget(ROOT, 10)
    shell = apsw.Connection(str(tmp_path / "data" / "ledger.db"))
    shell.execute("BEGIN IMMEDIATE")

    response = await authority.reserve(1, key="k")

    assert_refused(response, 503, "INTERNAL_ERROR")
    shell.execute("ROLLBACK")
    shell.close()
    assert (await authority.reserve(1, key="k")).status == 200


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that everybody may look into; those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def foreign_ledger(public_directory: Path) -> Path:
    """A sound ledger that its reader may not write."""
    path = public_directory / "ledger.db"
    LedgerStore(path).close()
    for file in public_directory.iterdir():
        file.chmod(0o444)
    return path


@pytest.mark.usefixtures("foreign_ledger", "ordinary_user")
def test_a_ledger_that_may_only_be_read_is_refused(public_directory: Path) -> None:
    """Somebody else's file, or one on a disk that is read-only."""
    assert "BUDGET_DATA_DIR" in refused(public_directory / "ledger.db")


@pytest.mark.anyio
async def test_a_file_that_is_damaged_is_an_answer_and_never_a_wrong_balance(tmp_path: Path) -> None:
    """Whichever page a disk has garbled: an error, or what was there before; nothing is guessed."""
    path = tmp_path / "ledger.db"
    with opened(path, Clock()) as authority:
        authority.set_budget(ROOT, 1_000)
        for _ in range(20):
            await authority.reserved(10)
    sound = path.read_bytes()
    for start in range(0, len(sound), 4_096):
        path.write_bytes(sound[:start] + os.urandom(4_096) + sound[start + 4_096 :])
        try:
            damaged = EmbeddedAuthority(path, Clock())
        except ConfigurationError:
            continue
        await damaged.client.create_reservation(damaged.intent(1))
        response = await damaged.client.get_balances(tenant="acme")
        damaged.writer.close()
        if response.is_success:
            assert response.body is not None
            assert [row["allocated"]["amount"] for row in response.body["balances"]] == [1_000]
        else:
            assert response.status == 503
