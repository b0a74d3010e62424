"""Rows of the ledger's tables as they are, whatever columns a version has: to be copied under new ids."""

from collections.abc import Iterable

import apsw

Value = str | bytes | int | float | None
"""What SQLite keeps in a column."""

Row = dict[str, Value]
"""A row by its columns' names, in the table's order."""


def find_row(db: apsw.Connection, table: str, **where: Value) -> Row:
    """Give the one row of a table that has these values."""
    conditions = " AND ".join(f"{column} = ?" for column in where)
    found = db.execute(f"SELECT * FROM {table} WHERE {conditions}", tuple(where.values()))  # noqa: S608 - our own names
    names = [name for name, _ in found.get_description()]
    (values,) = found
    return dict(zip(names, values, strict=True))


def insertion(table: str, columns: Iterable[str]) -> str:
    """Write the statement that inserts a row of these columns."""
    names = list(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our own names
