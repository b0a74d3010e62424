"""Server-sent events: how the data of events becomes the bytes of a stream.

The Messages API names each event and ends lines with a line feed. The standard of server-sent events allows more
(carriage returns, comments, data without a name), HTTP allows more still (any cut between pieces, compression), and
gateways use all of it.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from budget_server.demo.scripted_claude.message import Event
from budget_server.demo.scripted_claude.wire import to_json


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The form of a stream.

    Attributes:
        has_names: whether an ``event:`` line says the type of each event, beside the data that says it too. The SDK
            drops events without one.
        line_end: what ends a line.
        comment: text of a comment line before each event; empty for none.
        tail: bytes after the last event.
        piece_bytes: how many bytes are sent at a time, wherever that cuts; ``None`` sends event by event.
        is_compressed: whether the stream is sent as gzip, if the client takes that.
    """

    has_names: bool = True
    line_end: str = "\n"
    comment: str = ""
    tail: bytes = b""
    piece_bytes: int | None = None
    is_compressed: bool = False

    def pieces(self, events: Sequence[Event | bytes], middle: int, *, compress: bool) -> tuple[list[bytes], int]:
        """Write a stream as pieces, and say which piece is the first of its second half."""
        compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16) if compress else None
        halves: list[list[bytes]] = []
        for half, tail in ((events[:middle], b""), (events[middle:], self.tail)):
            written = [self._write(event) for event in half] + ([tail] if tail else [])
            if compressor is not None:
                written = [compressor.compress(each) + compressor.flush(zlib.Z_SYNC_FLUSH) for each in written]
            if self.piece_bytes is not None:
                written = list(_cut(b"".join(written), self.piece_bytes))
            halves.append(written)
        if compressor is not None:
            halves[1].append(compressor.flush())
        return [*halves[0], *halves[1]], len(halves[0])

    def _write(self, event: Event | bytes) -> bytes:
        if isinstance(event, bytes):
            return event
        lines = [f": {self.comment}", ""] if self.comment else []
        if self.has_names:
            lines.append(f"event: {event['type']}")
        lines += [f"data: {to_json(event).decode()}", "", ""]
        return self.line_end.join(lines).encode()


PLAIN_FRAMING = Framing()
"""The form of the API's own streams."""


def _cut(whole: bytes, size: int) -> Iterator[bytes]:
    return (whole[start : start + size] for start in range(0, len(whole), size))
