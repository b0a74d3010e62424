"""A Messages endpoint that answers at once, to measure what happens around its answers. Started by ``conversing.py``.

The scripted Claude of the demonstration checks every request and sends event by event, which takes a good part of the
time that is measured here. This one has its events ready: a text of many deltas, then a call of the first tool that is
offered, until the conversation has as many of them as its opening asks for (``opening``); then the text alone. It
counts four bytes of a request as one token.

It prints its port and serves until its standard input ends. For every line there it prints, as JSON and by the key that
came with them, how many requests for a message it had of each length of the conversation, and how many bytes they took.
"""

import asyncio
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

BYTES_PER_TOKEN = 4

_MESSAGES, _COUNT = b"POST /v1/messages ", b"POST /v1/messages/count_tokens"
_HEAD = b"HTTP/1.1 200 OK\r\nrequest-id: req_instant\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


def opening(tool_calls: int) -> str:
    """Write a task that this endpoint answers with so many tool calls, a turn each, and then the end."""
    return f"Use your tool {tool_calls} times, then say so."


class InstantClaude:
    """Answers of one length.

    Args:
        deltas: how many pieces the text of every answer has.
    """

    def __init__(self, deltas: int) -> None:
        self._text = _block(0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": "word "}] * deltas)
        self._output_tokens = deltas + 20
        self.lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.request_bytes: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until the client leaves it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                writer.write(self._answer(head, body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()  # either side has ended

    def _answer(self, head: bytes, body: bytes) -> bytes:
        tokens = len(body) // BYTES_PER_TOKEN
        if head.startswith(_COUNT):
            counted = b'{"input_tokens":%d}' % tokens
            return b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (_HEAD, len(counted), counted)
        if not head.startswith(_MESSAGES):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        request: dict[str, Any] = json.loads(body)
        key = re.search(rb"(?i)\r\n(?:authorization: *bearer|x-api-key:) *(\S+)", head)
        caller = key[1].decode() if key else ""
        self.lengths[caller][len(request["messages"])] += 1
        self.request_bytes[caller] += len(body)
        events = b"".join(self._events(request, tokens))
        return b"%sContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%s%s" % (
            _HEAD,
            events,
            _LAST_CHUNK,
        )

    def _events(self, request: dict[str, Any], input_tokens: int) -> Iterable[bytes]:
        taken = sum(message["role"] == "assistant" for message in request["messages"])
        tools = request.get("tools") or []
        uses_tool = bool(tools) and request.get("tool_choice") != {"type": "none"} and taken < _calls_asked(request)
        usage = {"input_tokens": input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        message = {"id": f"msg_instant_{taken}", "type": "message", "role": "assistant", "model": request["model"]}
        message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
        yield _event({"type": "message_start", "message": message})
        yield self._text
        if uses_tool:
            tool_use = {"type": "tool_use", "id": f"toolu_instant_{taken}", "name": tools[0]["name"], "input": {}}
            # No two calls alike: the same one again and again would be taken for a runaway.
            pieces = ("", '{"step":', f"{taken}}}")
            yield _block(1, tool_use, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces])
        stop = {"stop_reason": "tool_use" if uses_tool else "end_turn", "stop_sequence": None}
        final_usage = {**usage, "output_tokens": self._output_tokens}
        yield _event({"type": "message_delta", "delta": stop, "usage": final_usage})
        yield _event({"type": "message_stop"})


def _calls_asked(request: dict[str, Any]) -> int:
    found = re.search(r"Use your tool (\d+) times", json.dumps(request["messages"][0]["content"]))
    return int(found[1]) if found else 0


def _block(index: int, start: dict[str, Any], deltas: list[dict[str, str]]) -> bytes:
    events = [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]
    return b"".join(map(_event, events))


def _event(data: dict[str, Any]) -> bytes:
    """Write a server-sent event in a chunk of its own, as the API sends it."""
    written = json.dumps(data, separators=(",", ":")).encode()
    event = b"event: %s\ndata: %s\n\n" % (str(data["type"]).encode(), written)
    return b"%x\r\n%s\r\n" % (len(event), event)


async def main(deltas: int) -> None:
    """Serve until standard input ends."""
    claude = InstantClaude(deltas)
    server = await asyncio.start_server(claude.serve, "127.0.0.1", 0, limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        lengths = {caller: sorted(counted.items()) for caller, counted in claude.lengths.items()}
        print(json.dumps({"lengths": lengths, "bytes": claude.request_bytes}), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
