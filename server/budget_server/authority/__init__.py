"""The embedded budget authority: the Cycles protocol over one durable SQLite ledger file."""
