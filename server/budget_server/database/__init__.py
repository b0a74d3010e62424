"""A durable SQLite file that processes share: opened safely, locked fairly, and written to in groups."""
