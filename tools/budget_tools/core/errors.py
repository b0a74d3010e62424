"""Every error these tools raise on purpose.

    BudgetError                     root; carries a stable ``code`` and one actionable sentence
    ├── InvalidArgumentError        the caller's input; nothing was written; correct it and call again
    │   └── UnknownModelError       a model id without a price; nothing was written
    ├── ConfigurationError          the server's own settings; a person must correct them
    ├── UsageError                  usage that is missing or impossible; nothing was priced
    ├── AuthorityError              the budget authority refused; nothing was written
    │   └── AuthorityUnavailableError   no definite answer came; the same idempotency key may be sent again
    ├── StorageUnavailableError     a file here gave no definite answer; nothing was written; it may be tried again
    ├── IssuerUnavailableError      an OAuth issuer gave no keys; the request was not admitted; it may be tried again
    └── UngatedRequestError         a Messages request without a live reservation; nothing was sent

A denial for lack of budget is not an error: tools answer it as ``decision: "DENY"``.
"""

from budget_tools.core.text_safety import sentence


class BudgetError(Exception):
    """Root of the error tree; the message is one sentence fit for a host's model to read, whatever it quotes."""

    code = "BUDGET_ERROR"

    def __init__(self, message: str, *, code: str = "") -> None:
        self.message = sentence(message)
        super().__init__(self.message)
        if code:
            self.code = code


class InvalidArgumentError(BudgetError):
    """The caller's input is wrong; nothing was written; correct the named argument and call again."""

    code = "INVALID_ARGUMENT"


class UnknownModelError(InvalidArgumentError):
    """The model id has no price, so its cost cannot be bounded; nothing was written."""

    code = "UNKNOWN_MODEL"

    def __init__(self, message: str, *, model: str) -> None:
        super().__init__(message)
        self.model = model


class ConfigurationError(BudgetError):
    """A setting of this server is missing or wrong; a person has to correct it before the call can work."""

    code = "CONFIGURATION"


class UsageError(BudgetError):
    """A usage report is missing or impossible; nothing was priced from it."""

    code = "USAGE_UNKNOWN"


class AuthorityError(BudgetError):
    """The budget authority refused the operation and changed nothing.

    ``code`` is the protocol's own error code (Cycles v0, ErrorCode), ``status`` its HTTP status.
    """

    code = "AUTHORITY_ERROR"

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message, code=code)
        self.status = status


class AuthorityUnavailableError(AuthorityError):
    """No definite answer came from the authority; sending the same idempotency key again is safe."""

    def __init__(self, message: str, *, status: int = -1) -> None:
        super().__init__(message, code="AUTHORITY_UNAVAILABLE", status=status)


class StorageUnavailableError(BudgetError):
    """A file of this server gave no definite answer: busy past the deadline, disk full, read-only or damaged.

    Nothing of the operation was written; it may be tried again, with the same idempotency key.
    """

    code = "STORAGE_UNAVAILABLE"


class IssuerUnavailableError(BudgetError):
    """An OAuth issuer gave no keys, and none are known: the token cannot be verified now; try again."""

    code = "ISSUER_UNAVAILABLE"


class UngatedRequestError(BudgetError):
    """A Messages request tried to leave without a live reservation; nothing was sent. This is a bug of ours."""

    code = "UNGATED_REQUEST"
