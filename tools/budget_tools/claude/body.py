"""The body of an answer under status 200, read by its content, not by its content type.

    body                                          what it is
    server-sent events                            a stream; see ``stream.py``
    a JSON message                                an answer, although a stream was asked for
    JSON objects of events, one a line            a stream without its framing
    JSON with an error and without an answer      not an answer: nothing was sampled
    HTML, plain text                              not an answer: a page of something between here and the API
    nothing, or anything else                     unknown; an answer may have been lost

Text that has lines of events in it, or is announced as a stream, is a damaged stream and not a page.

Pure: bytes go in as they arrive, and one of four results comes out.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from budget_tools.claude.json import read_event
from budget_tools.claude.sse import SseDecoder
from budget_tools.claude.stream import Reply, ReplyReader, StreamError, stream_error

_FIELDS = (b":", b"data:", b"event:", b"id:", b"retry:")
"""Beginnings of a line of server-sent events."""

_LINES = ("data:", "event:")
"""Fields by which a stream with a damaged beginning is recognized."""

IS_HTML = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)

_LONGEST_FIELD = max(map(len, _FIELDS))

_BLANK = b" \t\r\n\xef\xbb\xbf"
"""White space, and the byte order mark that may precede any text in UTF-8."""

_OF_ANSWERS = ("content", "choices", "output", "candidates", "completion", "usage")
"""Members of JSON objects by which answers of any API are recognized."""

_OF_ERRORS = ("error", "errors", "detail", "message", "msg", "error_message", "reason")
"""Members that show an error if the body has no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotAnAnswer:
    """A whole body that is surely not an answer of a model."""

    error: StreamError


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenOff:
    """An answer of which the end, or all, is missing; with the error that ended its stream, if it sent one."""

    error: StreamError | None = None
    partial: Reply | None = None
    """The part of the answer that came before; ``None`` if nothing did."""


class BodyReader:
    """Reader of the body of one answer.

    Args:
        content_type: as the answer's headers say.
        taken_ids: ids of tool calls that the conversation has already.
    """

    def __init__(self, content_type: str = "text/event-stream", *, taken_ids: Collection[str] = ()) -> None:
        self._is_announced = "event-stream" in content_type.lower()
        self._stream = ReplyReader(taken_ids)
        self._decoder = SseDecoder()
        self._is_stream: bool | None = None
        self._start: list[bytes] = []

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer came, even if the connection breaks now."""
        return self._stream.is_complete

    @property
    def has_ended(self) -> bool:
        """Whether the end of an answer came; little can follow."""
        return self._stream.has_ended or self._stream.error is not None

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes."""
        if self._is_stream is None:
            chunk = (b"".join(self._start) + chunk).lstrip(_BLANK)
            self._start = [chunk]
            if len(chunk) < _LONGEST_FIELD:
                return
            self._is_stream = chunk.startswith(_FIELDS)
        elif not self._is_stream:
            self._start.append(chunk)
        if self._is_stream:
            for event in self._decoder.feed(chunk):
                self._stream.take_sent(event.name, event.lines)

    def end(self) -> Reply | NotAnAnswer | BrokenOff:
        """Return what the body was, once it has ended."""
        if not self._is_stream:
            other = self._document(self._text())
            if other is not None:
                return other
        for event in self._decoder.end():
            self._stream.take_sent(event.name, event.lines)
        if self._stream.error is not None or not self._stream.has_begun:
            return self._broken_off()
        return self._stream.reply()

    def broken(self) -> Reply | BrokenOff:
        """Return what came of a body whose connection was lost before its end."""
        if not self._is_stream and isinstance(read_event(self._text()), Mapping):
            whole = self.end()
            return BrokenOff() if isinstance(whole, NotAnAnswer) else whole
        if self._stream.error is None and self._stream.is_complete:
            return self._stream.reply()
        return self._broken_off()

    def _broken_off(self) -> BrokenOff:
        partial = self._stream.reply() if self._stream.has_begun else None
        return BrokenOff(error=self._stream.error, partial=partial)

    def _text(self) -> str:
        return b"".join(self._start).decode(errors="replace").strip("\ufeff \t\r\n")

    def _document(self, text: str) -> NotAnAnswer | BrokenOff | None:
        """Read a body that is not a stream; ``None`` if its events were given to the stream."""
        value = read_event(text)
        if isinstance(value, Mapping):
            if isinstance(value.get("type"), str) and value["type"] not in ("error", "message"):
                self._stream.take(value)
                return None
            return self._object(value)
        lines = text.splitlines()
        events = [read_event(line) for line in lines] if text.startswith("{") and len(lines) > 1 else []
        if any(isinstance(event, Mapping) and event.get("type") for event in events):
            for event in events:
                self._stream.take(event)
            return None
        if any(line.startswith(_LINES) for line in lines):
            for event in self._decoder.feed(text.encode(errors="replace")):
                self._stream.take_sent(event.name, event.lines)
            return None
        is_page = bool(IS_HTML.search(text)) or not self._is_announced
        if not text or text.startswith(("{", "[")) or value is not None or not is_page:
            return BrokenOff()
        return NotAnAnswer(error=StreamError(type="", message=text))

    def _object(self, value: Mapping[str, Any]) -> NotAnAnswer | BrokenOff | None:
        content = value.get("content")
        is_content = isinstance(content, list) and (bool(content) or not value.get("error"))
        if value.get("type") != "error" and (is_content or value.get("type") == "message"):
            self._stream.take_message(value)
            return None
        if any(_says_something(value.get(name)) for name in _OF_ANSWERS):
            return BrokenOff()
        told = next((value[name] for name in _OF_ERRORS if value.get(name)), None)
        if told is None:
            return BrokenOff()
        error = stream_error(value)
        return NotAnAnswer(error=error if error.message else StreamError(type=error.type, message=str(told)))


def _says_something(member: object) -> bool:
    """Whether a member is neither absent nor empty; counts that are all 0 are as good as none."""
    return any(member.values()) if isinstance(member, Mapping) else bool(member)
