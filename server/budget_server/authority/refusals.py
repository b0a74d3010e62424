"""The refusal of an operation: a protocol error that changed nothing."""

from collections.abc import Mapping
from typing import Any

from budget_tools.core.errors import StorageUnavailableError


class Refusal(Exception):  # noqa: N818 - the protocol's word; most refusals are ordinary answers
    """A protocol error answer (Cycles v0, ErrorResponse); the operation wrote nothing.

    Args:
        status: the HTTP status.
        code: the protocol's ErrorCode.
        message: one sentence.
        details: data that a client may act on; denials carry ``deny_detail``.
    """

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details) if details else None


def deny_detail(reason_code: str, suggested_fix: str, **where: object) -> dict[str, Any]:
    """Build the ``details`` that every 409 carries: what refused, and what would help.

    The shape is the one announced for v0.1.26 of the protocol; v0.1.25 leaves ``details`` open.
    """
    return {"deny_detail": {"reason_code": reason_code, **where, "suggested_fix": suggested_fix}}


LedgerUnavailableError = StorageUnavailableError
"""The ledger gave no definite answer; nothing was written, and the same idempotency key may be sent again."""
