"""The gated Messages client: a request that costs money leaves only with a live reservation.

One ticket is one HTTP attempt. The client's own retries are off, because the API has no idempotency key: a retry
after a lost answer may be billed twice, so this module counts every attempt.
"""

import ipaddress
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from budget_tools.claude.body import BodyReader, BrokenOff, NotAnAnswer
from budget_tools.claude.departures import Departure, departure_of, watch_departures
from budget_tools.claude.endpoint import Endpoint, has_no_route
from budget_tools.claude.failures import Failure, failure_of_body, failure_of_status
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import UngatedRequestError
from budget_tools.core.text_safety import sentence

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic
    from anthropic._middleware import AsyncCallNext
    from anthropic._request import APIRequest
    from anthropic._response import AsyncAPIResponse

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 600.0
CONNECT_TIMEOUT_SECONDS = 10.0

_FREE_PATH = "/v1/messages/count_tokens"

_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "output_config")
"""Fields of a request that the API counts."""

AFTER_END_SECONDS = 1.0
"""How long a stream may go on after the end of its answer; the API closes it at once."""

_SHORTEST_SECRET = 8
"""Shorter strings are not treated as secrets: they could be ordinary words."""


@dataclass(kw_only=True, slots=True)
class Ticket:
    """Permission for one request under one reservation, with the result of the attempt."""

    reservation_id: str
    is_used: bool = False
    """Whether the request may have left."""
    request_id: str = ""
    """The API's id of the request, once its headers are back: a person reconciles a broken answer by it."""
    departure: Departure = "unknown"
    """How far the request came on its way, as far as that was observed."""

    @property
    def may_have_left(self) -> bool:
        """Whether anything of the request may have been sent."""
        return self.is_used and self.departure != "connecting"


__all__ = ["Claude", "Failure", "Ticket"]

_current_ticket: ContextVar[Ticket | None] = ContextVar("current_ticket", default=None)


class Claude:
    """The Messages API at one endpoint.

    Args:
        endpoint: its address, and the credentials.

    Raises:
        ConfigurationError: a variable that sets the route of requests cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        import httpx2  # imported here: about a second that no start should wait for

        self._endpoint = endpoint
        self._counts_tokens = True
        self._client: AsyncAnthropic = endpoint.open_client(
            timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS), middleware=[_gate]
        )
        watch_departures(self._client, _note_departure)

    async def count_input_tokens(self, request: Mapping[str, Any]) -> int | None:
        """Ask the API, free of charge, for the length of a prompt; ``None`` if it does not say.

        An endpoint that does not count tokens, or returned an impossible count, is not asked again.
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
        # The client does not enforce the type that it declares: a value that is not a count is treated as no answer.
        tokens: object = getattr(counted, "input_tokens", None)
        return tokens if type(tokens) is int and tokens >= 0 else None

    def distrust_counts(self) -> bool:
        """Stop asking this endpoint for counts, because one cannot be true; return whether it was asked until now."""
        was_asked, self._counts_tokens = self._counts_tokens, False
        return was_asked

    async def send(self, ticket: Ticket, request: Mapping[str, Any]) -> Reply | Failure:
        """Make one attempt and read its stream to the end; raise nothing but cancellation and our own bugs.

        Always a stream: long answers outlive idle connections otherwise, and leaving one early really closes it.

        Args:
            ticket: permission for exactly this attempt.
            request: the body of POST /v1/messages.
        """
        try:
            with _under(ticket):
                async with await self._client.messages.create(**request, stream=True) as stream:
                    return await self._read(stream.response, request)
        except UngatedRequestError:
            raise
        except Exception as exc:
            # Half of the errors here are not of the client's own tree.
            return self._failure(exc, ticket)

    async def _read(self, response: "httpx2.Response", request: Mapping[str, Any]) -> Reply | Failure:
        """Read the body of an answer; a connection lost after the end of the answer does not harm it."""
        reader = BodyReader(response.headers.get("content-type", ""), taken_ids=tool_use_ids(request))
        body: Reply | NotAnAnswer | BrokenOff
        with anyio.CancelScope() as after_end:
            try:
                async for chunk in response.aiter_bytes():
                    reader.feed(chunk)
                    if reader.has_ended and not after_end.shield:
                        # Nor does a stop: it would lose an answer that has arrived, and its cost.
                        after_end.shield = True
                        after_end.deadline = anyio.current_time() + AFTER_END_SECONDS
            except Exception as exc:  # half of the errors here are not of the client's own tree
                body = reader.broken()
                if isinstance(body, BrokenOff) and body.error is None:
                    message = f"The answer broke off ({type(exc).__name__})."
                    return Failure(message=message, sending="broken", partial=body.partial)
            else:
                body = reader.end()
        if after_end.cancelled_caught:
            body = reader.end()
        if isinstance(body, Reply):
            return replace(
                body,
                is_from_claude_api=body.is_from_claude_api and self._is_claude_api,
                problem=self._without_secrets(body.problem),
            )
        return failure_of_body(
            body, retry_after=response.headers.get("retry-after"), without_secrets=self._without_secrets
        )

    @property
    def _is_claude_api(self) -> bool:
        """Whether the address is Anthropic's own, or on this machine, where a relay or a stand-in of it may run.

        The ids of messages, which relays pass on, tell Anthropic's platform from others behind a relay.
        """
        host = urlsplit(str(self._client.base_url)).hostname or ""
        if host == "anthropic.com" or host.endswith(".anthropic.com") or host == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return False

    def _failure(self, exc: Exception, ticket: Ticket) -> Failure:
        """Build the failure of a client's error; an attempt that may have been billed is never called unbilled."""
        import anthropic

        if isinstance(exc, anthropic.APIStatusError):
            return failure_of_status(
                exc.status_code,
                _text_of(exc.response),
                retry_after=exc.response.headers.get("retry-after"),
                without_secrets=self._without_secrets,
            )
        match departure_of(exc, ticket.departure) if ticket.is_used else "unbuilt":
            case "unbuilt":
                message = f"The request could not be built: {self._without_secrets(str(exc))}"
                return Failure(message=sentence(message), sending="unsent")
            case "unreachable":
                return Failure(message="The Claude API could not be reached.", sending="unsent", is_retryable=True)
            case "unsent":
                cause = exc.__cause__ or exc
                words = self._without_secrets(f"{type(cause).__name__}: {cause}")
                return Failure(message=sentence(f"The request could not be sent ({words})."), sending="unsent")
            case "unknown":
                return Failure(message=f"The answer broke off ({type(exc).__name__}).", sending="broken")

    def _without_secrets(self, text: str) -> str:
        """Return foreign text without secrets, since it goes to hosts and is stored: some gateways quote them."""
        for secret in self._endpoint.secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "(the key)")
        return text

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
    ticket.departure = "left"
    ticket.request_id = response.headers.get("request-id", "")
    return response


def _note_departure(departure: Departure) -> None:
    ticket = _current_ticket.get()
    if ticket is not None:
        ticket.departure = departure


def tool_use_ids(request: Mapping[str, Any]) -> Collection[str]:
    """Return the ids of the tool calls in a request."""
    return {
        str(block.get("id"))
        for message in request.get("messages", ())
        if not isinstance(message.get("content"), str)
        for block in message.get("content", ())
        if block.get("type") == "tool_use"
    }


def _text_of(response: "httpx2.Response") -> str:
    """Return the body of an error; ``""`` if it cannot be read."""
    try:
        return response.text
    except Exception:  # an error of a codec, or the client's own: the status is judged without the body
        return ""
