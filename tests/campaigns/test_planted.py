"""Whatever is changed in one row of either file, ``check`` finds it, if a user could see it as money.

Any row of any table is deleted, doubled or changed in any column, with the tables' own checks switched off. What no
auditor can tell is listed: a column that nothing else in the files repeats.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import apsw
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from budget_server.config.paths import LEDGER_FILE
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.maintenance.consistency import inspect
from campaigns.test_storage import fill

UNTOLD = {
    # Set by people, and written in one place; of the tenant only the case of its letters.
    "budgets": {"tenant", "overdraft_limit", "is_over_limit", "time_zone", "counted_from_ms"},
    # Of what is still to come, or of when it was; what it came to is told elsewhere.
    "clock": {"now_ms"},
    "reservations": {
        *("overage_policy", "created_at_ms", "grace_ms", "extensions_left", "on_expiry", "debt_incurred"),
        *("finalized_at_ms", "metrics", "metadata", "committed_metadata", "subject", "action", "quotas"),
    },
    # A repetition under the old key would be taken for a new call; the reservation it names is settled already.
    "idempotency": {"payload_sha256", "created_at_ms", "idempotency_key"},
    "delegations": {
        *("tenant", "parent_id", "depth", "budget_microcents", "max_turns", "created_at_ms", "updated_at_ms"),
        *("model", "hint", "text", "task"),
    },
    "calls": {"tenant", "idempotency_key", "request_sha256"},
    "messages": {"starts_anew", "role", "content"},
}
"""Columns of which a change may remain unseen, because it leaves words that could as well be true."""

UNTOLD_ROWS = {"calls", "messages"}
"""Tables of which a row may go unseen: a call that could be repeated, and the last words of a conversation."""


class Table(NamedTuple):
    """A table of a file, and how much is in it."""

    file: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: int


class Books(NamedTuple):
    """Sound files, and their tables that have rows."""

    sound: Path
    tables: tuple[Table, ...]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """Files in which everything has happened."""
    sound = tmp_path_factory.mktemp("planted") / "sound"
    anyio.run(fill, sound)
    tables = []
    for file in (LEDGER_FILE, DELEGATIONS_FILE):
        db = apsw.Connection(str(sound / file))
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"):
            columns = list(db.execute(f"PRAGMA table_info({name})"))
            rows = int(str(db.execute(f"SELECT count(*) FROM {name}").get))  # noqa: S608 - our own tables
            key = tuple(str(column[1]) for column in columns if column[5])
            if rows:
                tables.append(Table(file, str(name), tuple(str(column[1]) for column in columns), key, rows))
        db.close()
    yield Books(sound, tuple(tables))
    shutil.rmtree(sound)


CHANGES = {
    "INTEGER": ("{0} + {1}", "{0} - {1}", "0", "-{1}"),
    "TEXT": ("{0} || 'x'", "''", "substr({0}, 2)", "upper({0})"),
    "BLOB": ("zeroblob(32)",),
}


@settings(max_examples=250, deadline=None, phases=[Phase.explicit, Phase.generate], derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(data=st.data())
def test_check_finds_whatever_is_planted_in_one_row(books: Books, tmp_path: Path, data: st.DataObject) -> None:
    """Changed, deleted or doubled; and nothing where nothing was."""
    table = data.draw(st.sampled_from(books.tables), label="table")
    row = data.draw(st.integers(0, table.rows - 1), label="row")
    what = data.draw(st.sampled_from(("change", "change", "change", "delete", "double")), label="what")
    directory = tmp_path / "data"
    shutil.copytree(books.sound, directory, dirs_exist_ok=True)
    column = ""
    db = apsw.Connection(str(directory / table.file))
    db.pragma("ignore_check_constraints", 1)
    try:
        key = db.execute(f"SELECT {', '.join(table.key)} FROM {table.name} LIMIT 1 OFFSET {row}").fetchone()  # noqa: S608 - our own tables
        assert key is not None
        where = " AND ".join(f"{column} = ?" for column in table.key)
        if what == "delete":
            db.execute(f"DELETE FROM {table.name} WHERE {where}", key)  # noqa: S608 - our own tables
        elif what == "double":
            values = [f"{each} || 'x'" if each == table.key[-1] else each for each in table.columns]
            if table.key[-1] in ("number", "position", "id"):
                values = [f"{each} + 100" if each == table.key[-1] else each for each in table.columns]
            db.execute(f"INSERT INTO {table.name} SELECT {', '.join(values)} FROM {table.name} WHERE {where}", key)  # noqa: S608 - our own tables
        else:
            column = data.draw(st.sampled_from(table.columns), label="column")
            kind = next(str(each[2]) for each in db.execute(f"PRAGMA table_info({table.name})") if each[1] == column)
            change = data.draw(st.sampled_from(CHANGES[kind]), label="change")
            value = change.format(column, data.draw(st.integers(1, 1_000), label="by"))
            same = f"{column} IS NOT {value}"
            db.execute(f"UPDATE {table.name} SET {column} = {value} WHERE {where} AND {same}", key)  # noqa: S608 - our own tables
        is_planted = db.changes() > 0
    except apsw.ConstraintError:
        is_planted = False
    finally:
        db.close()

    found = inspect(directory, None).findings

    shutil.rmtree(directory)
    if not is_planted:
        assert found == []
    elif what == "change":
        assert found or column in UNTOLD.get(table.name, ()), f"{table.name}.{column}"
    else:
        assert found or table.name in UNTOLD_ROWS or (what, table.name) == ("double", "idempotency"), table.name


SECOND_TURN = "WHERE delegation_id = 'one' AND number = 2"
LESS = f"""
    UPDATE turns SET record = json_set(record, '$.charged.amount', 70) {SECOND_TURN};
    UPDATE delegations SET spent_microcents = spent_microcents - 2 WHERE delegation_id = 'one'
"""  # noqa: S608 - our own tables
ANOTHERS = f"UPDATE turns SET record = json_set(record, '$.reservation_id', 'x') {SECOND_TURN}"  # noqa: S608 - our own tables
SPEND = """
    INSERT INTO spends SELECT 'one', {}, 2, 'k', '{{}}', '{{}}', 'USD_MICROCENTS', {}, 0, NULL, '{{}}'
    FROM turns WHERE delegation_id = 'one' AND number = 2
"""
OF_THE_TURN = "json_extract(record, '$.reservation_id')"
ABSENT = "reservation x, which the ledger does not have"

CONTRADICTIONS = {
    "a turn that says it cost less": (LESS, "was charged 70 USD_MICROCENTS, and in the ledger 72"),
    "a turn of a reservation that is not there": (ANOTHERS, ABSENT),
    "a spend of a reservation that is not there": (SPEND.format("'x'", 5), ABSENT),
    "a spend that is held as another amount": (SPEND.format(OF_THE_TURN, 5), "may cost 5 USD_MICROCENTS, and its"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_files_that_are_sound_but_contradict_each_other_are_found(books: Books, tmp_path: Path, name: str) -> None:
    """Each adds up for itself."""
    statements, says = CONTRADICTIONS[name]
    shutil.copytree(books.sound, tmp_path / "data")
    db = apsw.Connection(str(tmp_path / "data" / DELEGATIONS_FILE))
    db.execute(statements)
    db.close()

    (finding,) = inspect(tmp_path / "data", None).findings

    assert says in finding


def test_what_is_still_open_is_told_and_is_no_error(books: Books, tmp_path: Path) -> None:
    """A spend that is not struck out yet: a server that runs has them all the time."""
    shutil.copytree(books.sound, tmp_path / "data")
    db = apsw.Connection(str(tmp_path / "data" / DELEGATIONS_FILE))
    db.execute(SPEND.format(OF_THE_TURN, 100))
    db.close()

    found = inspect(tmp_path / "data", None)

    assert found.findings == []
    assert "1 spends open" in found.notes[0]
