"""What the campaigns share with the tests of faults: the nursery of processes, and a remote authority."""

from faults.conftest import authority, nursery

__all__ = ["authority", "nursery"]
