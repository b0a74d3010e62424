"""A durable SQLite file that processes share: opening it safely, taking turns at it, and writing to it in groups."""
