"""The gated Messages client: no request that costs money leaves without a live reservation.

One ticket is one HTTP attempt. The client's own retries are off, because the API has no idempotency key: a retry
after a lost answer may be billed twice, so every attempt is ours to count.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budget_tools.claude.endpoint import Endpoint, has_no_route
from budget_tools.claude.stream import Reply, ReplyReader
from budget_tools.core.errors import UngatedRequestError
from budget_tools.core.text_safety import sentence

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic._middleware import AsyncCallNext
    from anthropic._request import APIRequest
    from anthropic._response import AsyncAPIResponse

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 600.0
CONNECT_TIMEOUT_SECONDS = 10.0

_FREE_PATH = "/v1/messages/count_tokens"

_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "output_config")
"""What of a request the API counts."""

# Refused before any work: safe to try again. Every other 4xx but 408 and 499 is as surely unbilled, but will not pass
# later.
_RETRYABLE_STATUSES = frozenset({429, 529})
_AMBIGUOUS_STATUSES = frozenset({408, 499})


_SHORTEST_SECRET = 8
"""What is shorter is no key, and may be any word."""


@dataclass(kw_only=True, slots=True)
class Ticket:
    """Leave for one request under one reservation, and what became of it."""

    reservation_id: str
    is_used: bool = False
    """Whether the request may have left."""
    request_id: str = ""
    """The API's name for it, once its headers are back: what a person reconciles a broken answer by."""


_current_ticket: ContextVar[Ticket | None] = ContextVar("current_ticket", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An attempt without a complete answer; unless surely unbilled, it may have cost money."""

    message: str
    is_surely_unbilled: bool
    is_retryable: bool = False
    retry_after_seconds: int | None = None
    status: int | None = None
    """The HTTP status; ``None`` if none came, or none that tells of an error."""
    error_type: str = ""
    """The API's name for the error, if it gave one."""


class Claude:
    """The Messages API at one endpoint.

    Args:
        endpoint: where it is, and who sends.

    Raises:
        ConfigurationError: a variable that says which way requests take cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        import httpx2  # here: about a second that no start should wait for

        self._endpoint = endpoint
        self._counts_tokens = True
        self._client: AsyncAnthropic = endpoint.open_client(
            timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS), middleware=[_gate]
        )

    async def count_input_tokens(self, request: Mapping[str, Any]) -> int | None:
        """Ask the API, free of charge, how long a prompt is; ``None`` if it does not say.

        An endpoint that does not count tokens, or counted what cannot be true, is not asked again.
        """
        import anthropic
        import httpx2

        if not self._counts_tokens:
            return None
        countable = {key: request[key] for key in _COUNTED if key in request}
        try:
            counted = await self._client.messages.count_tokens(**countable, timeout=CONNECT_TIMEOUT_SECONDS)
        except (anthropic.AnthropicError, httpx2.HTTPError, ValueError, OSError) as exc:
            if isinstance(exc, anthropic.APIStatusError) and has_no_route(
                exc.status_code, exc.body, str(request.get("model", ""))
            ):
                self._counts_tokens = False
                logger.warning(
                    "The endpoint of ANTHROPIC_BASE_URL counts no tokens (HTTP %s): prompts are bounded by their bytes,"
                    " which reserves more than they will cost",
                    exc.status_code,
                )
            return None
        # The client does not insist on the type that it declares: what is no count is as good as no answer.
        tokens: object = getattr(counted, "input_tokens", None)
        return tokens if type(tokens) is int and tokens >= 0 else None

    def distrust_counts(self) -> bool:
        """Ask this endpoint for no more counts, because one cannot be true; return whether it was asked until now."""
        was_asked, self._counts_tokens = self._counts_tokens, False
        return was_asked

    async def send(self, ticket: Ticket, request: Mapping[str, Any]) -> Reply | Failure:
        """Make one attempt and read its stream to the end; raises nothing but cancellation and our own bugs.

        Always a stream: long answers outlive idle connections otherwise, and leaving one early really closes it.

        Args:
            ticket: leave for exactly this attempt.
            request: the body of POST /v1/messages.
        """
        try:
            with _under(ticket):
                reader = ReplyReader()
                async with await self._client.messages.create(**request, stream=True) as stream:
                    async for event in stream:
                        reader.take(event)
                return reader.reply()
        except UngatedRequestError:
            raise
        except Exception as exc:
            # Half of what breaks here is no error of the client's own tree.
            failure = _failure(exc, ticket)
            return replace(failure, message=self._harmless(failure.message))

    def _harmless(self, message: str) -> str:
        """Take secrets out of the API's own words, which go to hosts and are stored: some gateways quote them."""
        for secret in self._endpoint.secrets:
            if len(secret) >= _SHORTEST_SECRET:
                message = message.replace(secret, "(the key)")
        return sentence(message)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


@contextmanager
def _under(ticket: Ticket) -> Iterator[None]:
    token = _current_ticket.set(ticket)
    try:
        yield
    finally:
        _current_ticket.reset(token)


async def _gate(request: "APIRequest", call_next: "AsyncCallNext") -> "AsyncAPIResponse[Any]":
    if request.url == _FREE_PATH:
        return await call_next(request)
    ticket = _current_ticket.get()
    if ticket is None or ticket.is_used:
        raise UngatedRequestError("A request to the Claude API was stopped: it carried no live reservation.")
    ticket.is_used = True
    response = await call_next(request)
    ticket.request_id = response.headers.get("request-id", "")
    return response


def _failure(exc: Exception, ticket: Ticket) -> Failure:
    """Judge an attempt by what the client raised (what may have been billed is never called unbilled)."""
    import anthropic
    import httpx2

    if not ticket.is_used:
        return Failure(message=f"The request could not be built: {exc}", is_surely_unbilled=True)
    if isinstance(exc, anthropic.APIStatusError):
        # A stream's error event comes as a status of 200: work had begun.
        status = exc.status_code
        refused = status in _RETRYABLE_STATUSES or (400 <= status < 500 and status not in _AMBIGUOUS_STATUSES)
        wait_seconds = _retry_after_seconds(exc.response.headers.get("retry-after"))
        asks_to_wait = f" It asks to wait {wait_seconds} s." if wait_seconds else ""
        return Failure(
            message=f"The Claude API answered {' '.join(str(part) for part in (status, exc.type) if part)}: "
            f"{str(exc.api_message or 'no reason given').rstrip('.')}.{asks_to_wait}",
            is_surely_unbilled=refused,
            is_retryable=status in _RETRYABLE_STATUSES,
            retry_after_seconds=wait_seconds,
            status=status,
            error_type=exc.type or "",
        )
    never_sent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    if isinstance(exc, anthropic.APIConnectionError) and isinstance(exc.__cause__, never_sent):
        return Failure(message="The Claude API could not be reached.", is_surely_unbilled=True, is_retryable=True)
    return Failure(message=f"The answer broke off ({type(exc).__name__}).", is_surely_unbilled=False)


def _retry_after_seconds(header: str | None) -> int | None:
    return int(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 9 else None
