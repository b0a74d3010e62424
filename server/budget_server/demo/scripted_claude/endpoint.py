"""The endpoint: a socket on the loopback that a client takes for the Messages API.

A real socket, because the faults that matter most to money (silence, a cut connection, half of a stream) exist only
there; and one that tells how each exchange went, so that tests wait for events instead of for time.

How one exchange goes::

    request read → recorded → checked → answer chosen → [hold] → headers → first half → [hold] → second half → answered
                                                          └ faults "…_before_headers"      └ faults "…_mid_stream"

At any point the client may hang up (`ReceivedRequest.disconnected`); hangs end then, or when the endpoint closes.
"""

import asyncio
import json
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Any, Self, cast

import anyio
import anyio.lowlevel
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from budget_server.demo.scripted_claude.caching import PromptCache
from budget_server.demo.scripted_claude.checks import REDACTED, find_refusal
from budget_server.demo.scripted_claude.script import JSON_FAULTS, Answer, Conversation, Failure, Script, Turn
from budget_server.demo.scripted_claude.wire import (
    COUNT_TOKENS_PATH,
    MESSAGES_PATH,
    Message,
    blocks_of,
    count_input_tokens,
    error_envelope,
    error_type_of,
    to_json,
)

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "proxy-authorization", "cookie"})


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceivedRequest:
    """A request as it arrived, and events that tell how it went on.

    Attributes:
        path: the path without its query; any method but POST stands before it.
        headers: names in lower case; credentials are replaced by ``[redacted]``.
        body: the JSON object that was sent; empty if it was none.
        request_id: the ``request-id`` that its answer carries.
        held: set when the answer waits: at its `Turn.hold`, or in a hang.
        answered: set when all that the script wanted sent was sent.
        disconnected: set when the client hung up before that.
        ended: set last, however it ended.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    request_id: str
    held: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    disconnected: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)


class ScriptedClaude:
    """The endpoint: an async context manager that listens on a free port of 127.0.0.1 while it is entered.

    Args:
        script: answers every conversation that no marker claims.
        conversations: scripts by marker; the first marker found in a conversation's first user message chooses. Each
            script counts its own requests, so conversations may run side by side.
        models: the model ids that exist; any other gets a 404. ``None`` accepts every id.
        caches: whether usage tells of prompt caching where requests have breakpoints; a turn's own usage of input and
            cache is believed all the same.
        port: where to listen; 0 takes a free one.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        conversations: Mapping[str, Script] | None = None,
        models: frozenset[str] | None = None,
        caches: bool = False,
        port: int = 0,
    ) -> None:
        self.requests: list[ReceivedRequest] = []
        self._conversations = {marker: Conversation(each) for marker, each in (conversations or {}).items()}
        self._other_conversations = Conversation(script)
        self._models = models
        self._cache = PromptCache() if caches else None
        self._arrival = anyio.Event()
        self._closing = False
        # Part of every id: a conversation may go on at another endpoint, and the API wants tool ids unique within it.
        self._run_id = secrets.token_hex(3)
        self._port = port
        self._listener = socket.socket()
        # A port of the caller's choice may still linger from its own last run.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._serve,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=3600,  # an idle connection that closes by itself would look like a fault
            )
        )

    @property
    def base_url(self) -> str:
        """Where the SDK finds the endpoint, for ``base_url`` or ``ANTHROPIC_BASE_URL``."""
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    @property
    def message_requests(self) -> list[ReceivedRequest]:
        """The requests for a message so far, refused ones included, token counts not."""
        return [request for request in self.requests if request.path == MESSAGES_PATH]

    async def wait_for_requests(self, count: int, *, path: str = MESSAGES_PATH) -> list[ReceivedRequest]:
        """Wait until this many requests for a path have arrived, and return them."""
        while len(found := [request for request in self.requests if request.path == path]) < count:
            await self._arrival.wait()
        return found

    async def __aenter__(self) -> Self:
        self._listener.bind(("127.0.0.1", self._port))
        # Not uvicorn's serve(): that takes over the process's signals and looks for its end ten times a second.
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._listener])
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        # Shielded: a cancelled test must not leave tasks and sockets behind.
        with anyio.CancelScope(shield=True):
            for server in self._server.servers:
                server.close()
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            # Each exchange sees that its connection is lost and ends by itself.
            await asyncio.gather(*self._server.server_state.tasks)
            while self._server.server_state.connections:
                await anyio.lowlevel.checkpoint()
            for server in self._server.servers:
                await server.wait_closed()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request (the ASGI application)."""
        body = b""
        while (event := await receive())["type"] == "http.request":
            body += event["body"]
            if not event["more_body"]:
                break
        else:
            return  # the client left before it had said what it wanted
        request = self._record(scope, body)
        exchange = _Exchange(request, send, self._transport(scope))
        async with anyio.create_task_group() as tasks:

            async def watch_the_client() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                if not (request.answered.is_set() or exchange.hung_up or self._closing):
                    request.disconnected.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch_the_client)
            await self._respond(exchange)
            tasks.cancel_scope.cancel()
        request.ended.set()

    def _record(self, scope: Scope, body: bytes) -> ReceivedRequest:
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        authenticated = bool(
            headers.get("x-api-key", "").strip() or headers.get("authorization", "").removeprefix("Bearer").strip()
        )
        request = ReceivedRequest(
            path=scope["path"] if scope["method"] == "POST" else f"{scope['method']} {scope['path']}",
            # An empty credential stays empty: that is what it was refused for.
            headers={
                name: REDACTED if name in _SECRET_HEADERS and authenticated else value
                for name, value in headers.items()
            },
            body=cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {},
            request_id=f"req_scripted_{self._run_id}_{len(self.requests) + 1:04d}",
        )
        self.requests.append(request)
        self._arrival.set()
        self._arrival = anyio.Event()
        return request

    def _transport(self, scope: Scope) -> asyncio.Transport:
        """Find the connection under a request: ASGI has no word for closing it, and faults need one."""
        return next(
            connection.transport
            for connection in self._server.server_state.connections
            if isinstance(connection, H11Protocol) and connection.client == scope["client"]
        )

    async def _respond(self, exchange: "_Exchange") -> None:
        request = exchange.request
        if refusal := find_refusal(request.path, request.headers, request.body, models=self._models):
            await exchange.fail(refusal)
        elif request.path == COUNT_TOKENS_PATH:
            await exchange.send_json(200, {"input_tokens": count_input_tokens(request.body)})
        else:
            answer = self._choose_answer(request.body)
            stream = bool(request.body.get("stream"))
            if isinstance(answer, Failure):
                await exchange.fail(answer)
            elif answer.fault and not stream and answer.fault not in JSON_FAULTS:
                await exchange.fail(Failure(status=500, message=f"The script is wrong: {answer.fault} needs a stream."))
            else:
                if self._cache is not None:
                    answer = replace(answer, usage=self._cache.usage_of(request.body, answer.usage))
                id_suffix = request.request_id.removeprefix("req_scripted_")
                await exchange.play(answer, Message.compose(answer, request.body, id_suffix=id_suffix), stream=stream)

    def _choose_answer(self, body: dict[str, Any]) -> Answer:
        opening = "\n".join(block["text"] for block in blocks_of(body["messages"][0]) if block.get("type") == "text")
        conversation = next(
            (each for marker, each in self._conversations.items() if marker in opening), self._other_conversations
        )
        return conversation.next_answer(body)


class _Exchange:
    """One request and the answer on its way."""

    def __init__(self, request: ReceivedRequest, send: Send, transport: asyncio.Transport) -> None:
        self.request = request
        self.hung_up = False
        self._send = send
        self._transport = transport

    async def fail(self, failure: Failure) -> None:
        """Answer with an HTTP error."""
        await self._hold(failure.hold)
        headers = dict(failure.headers)
        if failure.retry_after_seconds is not None:
            headers["retry-after"] = f"{failure.retry_after_seconds:g}"
        if failure.html:
            await self._start(failure.status, "text/html", headers)
            await self._finish(f"<html><body><h1>{failure.status} from a scripted gateway</h1></body></html>".encode())
            return
        error_type = failure.error_type or error_type_of(failure.status)
        envelope = error_envelope(
            error_type, failure.message, request_id=self.request.request_id, error_code=failure.error_code
        )
        await self.send_json(failure.status, envelope, headers)

    async def send_json(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Answer with a JSON object in one piece."""
        await self._start(status, "application/json", headers)
        await self._finish(to_json(content))

    async def play(self, turn: Turn, message: Message, *, stream: bool) -> None:
        """Answer with a message, as events or as one JSON object, and let go wrong what should."""
        if turn.hold_at == "headers":
            await self._hold(turn.hold)
        if turn.fault == "hang_before_headers":
            await self._hang()
        if turn.fault in ("close_before_headers", "reset_before_headers"):
            await self._hang_up(reset=turn.fault == "reset_before_headers")
        if stream:
            pieces, middle = message.stream_pieces(turn.fault, request_id=self.request.request_id)
        else:
            whole = to_json(message.as_json(with_usage=turn.fault != "no_usage"))
            middle = 1
            pieces = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
        await self._start(200, "text/event-stream; charset=utf-8" if stream else "application/json", _NO_HEADERS)
        for number, piece in enumerate([*pieces, b""]):
            if number == middle:
                if turn.hold_at == "middle":
                    await self._hold(turn.hold)
                if turn.fault == "hang_mid_stream":
                    await self._hang()
                if turn.fault in ("drop_mid_stream", "reset_mid_stream"):
                    await self._hang_up(reset=turn.fault == "reset_mid_stream")
            if piece:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._finish(b"")

    async def _start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        every_header = {"content-type": content_type, "request-id": self.request.request_id, **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every_header.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _finish(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        # Set before the last send: after it, the server reports the end of the exchange as a disconnect.
        self.request.answered.set()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hold(self, until: anyio.Event | None) -> None:
        if until is not None:
            self.request.held.set()
            await until.wait()

    async def _hang(self) -> None:
        self.request.held.set()
        await anyio.sleep_forever()

    async def _hang_up(self, *, reset: bool) -> None:
        self.hung_up = True
        if reset:
            # With a linger time of zero the system sends RST instead of FIN (SO_LINGER, socket(7)).
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()
        else:
            self._transport.close()
        await anyio.sleep_forever()  # until the lost connection is noticed, which ends the exchange
