"""Names of the files and folders in a data directory."""

LEDGER_FILE = "ledger.sqlite3"
"""The embedded authority's ledger."""

JOURNAL_DIRECTORY = "commit-journal"
"""The client library's journal of commits that a Cycles server has not answered."""
