"""How lines of the log look: what others sent may stand in one, and must not make two of it."""

import logging

from budget_tools.core.text_safety import sentence


class LineFormatter(logging.Formatter):
    """Formats each message as one printable line of bounded length; a traceback stands below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging gives it
        """Format a record's message."""
        record.message = sentence(record.message.strip())
        return super().formatMessage(record)
