"""Failures: attempts without an answer, in the endpoint's words, and whether they may have cost money.

    what happened                                                      as evidence
    the request could not be built, or nothing of it was sent          unsent
    refused by status: 3xx, 4xx but 408 and 499, and 529               refused
    an error of the same kinds, as the first event of a stream         refused
    status 200 with an error or a page in place of an answer           no_answer
    any other status, error or end                                     broken

``pricing.evidence`` decides by the evidence. Only an attempt that was surely not billed is ever repeated.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from budget_tools.claude.body import IS_HTML, BrokenOff, NotAnAnswer
from budget_tools.claude.json import read_event
from budget_tools.claude.stream import Reply, StreamError, stream_error
from budget_tools.core.text_safety import printable

Sending = Literal["unsent", "refused", "no_answer", "broken"]

MAX_WORDS = 300
"""Maximum number of characters of an endpoint's own words that are shown."""

_RETRYABLE_STATUSES = frozenset({429, 529})
"""Refused before any work: safe to try again."""
_AMBIGUOUS_STATUSES = frozenset({408, 499})
"""The 4xx that may come after work was done; every other one is unbilled, but would fail again."""

RETRYABLE_TYPES = frozenset({"overloaded_error", "rate_limit_error"})
REFUSED_TYPES = RETRYABLE_TYPES | {
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
}
"""Types of errors that the API does not bill by their status (Messages API, errors)."""

_HIDDEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
_MAX_SEARCHED = 20_000
"""Maximum number of characters of a page that are searched for words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An attempt without a complete answer."""

    message: str
    sending: Sending
    is_retryable: bool = False
    retry_after_seconds: int | None = None
    status: int | None = None
    """The HTTP status; ``None`` if no status came, or one that is not an error."""
    error_type: str = ""
    """The API's name for the error, if it gave one."""
    partial: Reply | None = None
    """The part of an answer that came before it broke off."""

    @property
    def is_surely_unbilled(self) -> bool:
        """Whether it surely cost nothing; otherwise it may have."""
        return self.sending != "broken"


def failure_of_status(
    status: int, body: str, *, retry_after: str | None, without_secrets: Callable[[str], str]
) -> Failure:
    """Build the failure of an HTTP status: an error, or a redirect."""
    if 300 <= status < 400:
        # An endpoint that names another place has not asked there.
        redirects = f"The Claude API answered {status}, a redirect, which is not followed"
        advice = "set ANTHROPIC_BASE_URL to the address that it leads to, which `doctor --online` names"
        return Failure(message=f"{redirects}: {advice}.", sending="refused", status=status)
    error = _error_in(body)
    refused = status in _RETRYABLE_STATUSES or (400 <= status < 500 and status not in _AMBIGUOUS_STATUSES)
    wait_seconds = _retry_after_seconds(retry_after)
    asks_to_wait = f" It asks to wait {wait_seconds} s." if wait_seconds else ""
    return Failure(
        message=f"The Claude API answered {_named(str(status), error, without_secrets)}{asks_to_wait}",
        sending="refused" if refused else "broken",
        is_retryable=status in _RETRYABLE_STATUSES,
        retry_after_seconds=wait_seconds,
        status=status,
        error_type=error.type,
    )


def failure_of_body(
    body: NotAnAnswer | BrokenOff, *, retry_after: str | None, without_secrets: Callable[[str], str]
) -> Failure:
    """Build the failure of a body under status 200 that is not a whole answer."""
    if body.error is None:
        return Failure(message="The answer broke off.", sending="broken", partial=body.partial)
    kind = body.error.type
    is_answer = isinstance(body, BrokenOff)
    partial = body.partial if isinstance(body, BrokenOff) else None
    is_unbilled = not is_answer or (kind in REFUSED_TYPES and partial is None)
    before = "answered" if partial is None else "began an answer and broke off with"
    named = _named("", body.error, without_secrets)
    if not is_answer:
        named = f"with something that is not an answer, under status 200: {named}"
    return Failure(
        message=f"The Claude API {before} {named}",
        sending=("refused" if is_answer else "no_answer") if is_unbilled else "broken",
        is_retryable=is_unbilled and kind in RETRYABLE_TYPES,
        retry_after_seconds=_retry_after_seconds(retry_after) if is_unbilled else None,
        error_type=kind,
        partial=partial,
    )


def words_of(text: str, without_secrets: Callable[[str], str]) -> str:
    """Return the beginning of an endpoint's own words, on one line, without markup and without quoted secrets."""
    # Secrets before any cut: half a key would not be found.
    text = without_secrets(text)[:_MAX_SEARCHED]
    if IS_HTML.search(text):
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    text = printable(" ".join(text.split()))
    return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"


def _named(status: str, error: StreamError, without_secrets: Callable[[str], str]) -> str:
    name = " ".join(part for part in (status, words_of(error.type, without_secrets)) if part)
    words = words_of(error.message, without_secrets).rstrip(".") or "no reason given"
    return f"{name}: {words}." if name else f"{words}."


def _error_in(body: str) -> StreamError:
    value = read_event(body)
    error = stream_error(value) if value is not None else StreamError(type="", message=body)
    return error if error.message or error.type else StreamError(type="", message=body)


def _retry_after_seconds(header: str | None) -> int | None:
    return int(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 9 else None
