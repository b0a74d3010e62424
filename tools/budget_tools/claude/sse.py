"""Server-sent events, from bytes as they arrive (WHATWG HTML, server-sent events).

Read here rather than by the SDK, which drops every event without a name and raises at the first that is not JSON. The
data of an event determines its type. Nothing raises: bytes that are not UTF-8 become replacement characters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SseEvent:
    """An event as it was sent: its name, ``""`` if it has none, and the lines of its data."""

    name: str
    lines: Sequence[str]


class SseDecoder:
    """Decoder of the bytes of one stream into its events."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._name = ""
        self._data: list[str] = []
        self._is_first_line = True

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Add the next bytes, and yield the events that they complete."""
        if not chunk:
            return
        if b"\n" not in chunk and b"\r" not in chunk:
            self._rest.append(chunk)
            return
        joined = b"".join([*self._rest, chunk])
        # A carriage return at the end may be half of a line end: the next byte decides.
        whole, held = (joined[:-1], b"\r") if joined.endswith(b"\r") else (joined, b"")
        lines = whole.splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        self._rest = [rest + held] if rest or held else []
        yield from self._take(lines)

    def end(self) -> Iterator[SseEvent]:
        """Yield the last event of the stream, even if no empty line came after it."""
        lines = b"".join(self._rest).splitlines()
        self._rest = []
        yield from self._take([*lines, b""])

    def _take(self, lines: list[bytes]) -> Iterator[SseEvent]:
        for raw in lines:
            line = raw.decode(errors="replace").rstrip("\r\n")
            if self._is_first_line:
                line = line.removeprefix(_BYTE_ORDER_MARK)
                self._is_first_line = False
            if not line:
                if self._data or self._name:
                    yield SseEvent(name=self._name, lines=self._data)
                    self._name, self._data = "", []
                continue
            field, _, value = line.partition(":")
            if field == "data":
                self._data.append(value.removeprefix(" "))
            elif field == "event":
                self._name = value.strip()
