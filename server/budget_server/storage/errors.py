"""What a file that is shared and durable may fail to do."""


class StorageUnavailableError(Exception):
    """The file gave no definite answer: busy past the deadline, disk full, read-only or damaged.

    Nothing of the operation was written; it may be tried again.
    """
