"""The script: what the scripted Claude is told to answer, and what it is told to get wrong.

It is data, so that a test or a demonstration reads as the conversation it plays, and it knows nothing of HTTP or of
sockets: how an answer is written is `wire`'s business, and when it is sent is `endpoint`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

Fault = Literal[
    "hang_before_headers",  # the request is read, then silence
    "close_before_headers",  # the request is read, then the connection is closed in good order
    "reset_before_headers",  # the request is read, then the connection is reset (TCP RST)
    "empty_stream",  # 200 and the headers of a stream, then its clean end
    "error_event_first",  # 200, then an `error` event where message_start should be
    "no_usage",  # a complete answer without any usage
    "hang_mid_stream",  # half of the content, then silence
    "drop_mid_stream",  # half of the content, then the connection is closed within the body
    "reset_mid_stream",  # the same with TCP RST; some systems drop what the client had not read yet
    "error_event",  # half of the content, then an `error` event (overloaded_error) and a clean end
    "bad_json_event",  # half of the content, then an event whose data is not JSON, and a clean end
    "no_message_delta",  # all of the content, then a clean end without stop reason or final usage
    "no_message_stop",  # everything except the last event: final usage was sent
]
"""What may go wrong with an answer. A JSON answer refuses the faults that only a stream can have."""

JSON_FAULTS = frozenset(
    {
        "hang_before_headers", "close_before_headers", "reset_before_headers",
        "no_usage", "hang_mid_stream", "drop_mid_stream", "reset_mid_stream",
    }
)  # fmt: skip
"""The faults that an answer in JSON can have as well."""


@dataclass(frozen=True)
class ToolCall:
    """A tool that the scripted model asks for, with its input."""

    name: str
    input: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an answer says it used; ``None`` is worked out from the request and the answer.

    ``input_tokens`` is the uncached remainder, as in the API: left out, it is the request's count less the cached
    tokens given here. ``output_tokens`` above the request's ``max_tokens`` is cut to it, as the API never exceeds it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    thinking_tokens: int | None = None
    web_search_requests: int = 0
    web_fetch_requests: int = 0
    service_tier: str = "standard"
    inference_geo: str | None = None
    speed: str | None = None

    @property
    def cache_creation_input_tokens(self) -> int:
        """Tokens written to the cache, for five minutes and for an hour together."""
        return self.cache_creation_5m_input_tokens + self.cache_creation_1h_input_tokens


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answer of the scripted model.

    Attributes:
        text: what it says; may be empty.
        tool_calls: the tools it asks for, after the text.
        thinking: a thinking block before the text, signed for the request's model.
        stop_reason: left out, ``tool_use`` if it asks for tools and ``end_turn`` if not. Content beyond the request's
            ``max_tokens`` is cut and the stop reason becomes ``max_tokens``, whatever stands here.
        ignores_tool_choice: it asks for its tools even where the request's ``tool_choice`` is ``none``, which the API
            never does; otherwise such a request is answered without them.
        refusal_category: the category of a refusal, in its ``stop_details``; the API bills some of them.
        usage: what the answer costs; by default worked out from the request and the content.
        fault: what goes wrong with it.
        hold: the answer waits for this event, so that a test decides when it goes on.
        hold_at: where it waits: before the headers, or after half of the content; `ReceivedRequest.held` tells when.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    stop_reason: str | None = None
    ignores_tool_choice: bool = False
    refusal_category: str | None = None
    usage: Usage = Usage()
    fault: Fault | None = None
    hold: anyio.Event | None = None
    hold_at: Literal["headers", "middle"] = "headers"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An HTTP error in place of an answer.

    Attributes:
        status: the HTTP status.
        error_type: the envelope's type; left out, the API's own for this status.
        message: the envelope's message.
        error_code: the envelope's ``details.error_code``.
        retry_after_seconds: sent as ``retry-after``.
        headers: further response headers, such as ``x-should-retry``.
        html: a page of HTML instead of the envelope, as a gateway before the API would answer.
        hold: the error waits for this event.
    """

    status: int
    error_type: str = ""
    message: str = "This error was written into the script."
    error_code: str = ""
    retry_after_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    html: bool = False
    hold: anyio.Event | None = None


Answer = Turn | Failure
Script = Sequence[Answer] | Callable[[dict[str, Any], int], Answer]


class Conversation:
    """A script and how far it has come."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._request_count = 0

    def next_answer(self, body: dict[str, Any]) -> Answer:
        """Choose the answer to the next request; a script that cannot tell one answers with a failure."""
        self._request_count += 1
        number = self._request_count
        if not callable(self._script):
            if number > len(self._script):
                return Failure(
                    status=500,
                    message=f"The script has ended: it has {len(self._script)} answers and this is request {number}.",
                )
            return self._script[number - 1]
        try:
            return self._script(body, number)
        except Exception as exc:  # whatever a script raises must reach the one who wrote it
            return Failure(status=500, message=f"The script raised {type(exc).__name__} at request {number}: {exc}")
