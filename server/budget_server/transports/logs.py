"""The format of log lines: a message may quote foreign text, which must not break it into several lines."""

import logging

from budget_tools.core.text_safety import sentence


class LineFormatter(logging.Formatter):
    """A formatter that writes each message as one printable line of bounded length; a traceback follows below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging gives it
        """Format a record's message."""
        record.message = sentence(record.message.strip())
        return super().formatMessage(record)
