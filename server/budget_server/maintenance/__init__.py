"""Maintenance of a data directory: backup, restore, consistency."""
