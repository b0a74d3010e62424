"""The endpoint: a socket on the loopback that a client takes for the Messages API.

A real socket, because the faults that matter most to money (silence, a cut connection, half of a stream) exist only
there; and one that tells how each exchange went, so that tests wait for events instead of for time.
"""

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

import anyio
import anyio.lowlevel
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from budget_server.demo.scripted_claude.billing import Bill
from budget_server.demo.scripted_claude.caching import PromptCache
from budget_server.demo.scripted_claude.checks import REDACTED, find_refusal
from budget_server.demo.scripted_claude.exchange import Exchange, ReceivedRequest
from budget_server.demo.scripted_claude.message import Message
from budget_server.demo.scripted_claude.profiles import PLAIN, PROFILES, Profile
from budget_server.demo.scripted_claude.script import JSON_FAULTS, Answer, Conversation, Failure, Script, Turn
from budget_server.demo.scripted_claude.transformations import transform
from budget_server.demo.scripted_claude.wire import COUNT_TOKENS_PATH, MESSAGES_PATH, blocks_of, count_input_tokens

_UNBILLED_FAULTS = frozenset({"error_event_first"})
"""Faults by which a client is told, before any output, that there will be none."""
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "proxy-authorization", "cookie"})


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
        profile: the gateway that it plays, by its name in `PROFILES` or as it is; ``None`` plays the API itself.

    Attributes:
        requests: every request so far, refused ones included.
        bills: what was billed so far, whatever the answers said of it.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        conversations: Mapping[str, Script] | None = None,
        models: frozenset[str] | None = None,
        caches: bool = False,
        port: int = 0,
        profile: str | Profile | None = None,
    ) -> None:
        self.bills: list[Bill] = []
        self._profile = PLAIN if profile is None else PROFILES[profile] if isinstance(profile, str) else profile
        self.requests: list[ReceivedRequest] = []
        self._conversations = {marker: Conversation(each) for marker, each in (conversations or {}).items()}
        self._other_conversations = Conversation(script)
        self._models = models
        self._cache = PromptCache() if caches else None
        self._arrival = anyio.Event()
        self._closing = False
        self._asked = 0
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
        exchange = Exchange(request, send, self._transport(scope))
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
            size_bytes=len(body),
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

    async def _respond(self, exchange: Exchange) -> None:
        request, profile = exchange.request, self._profile
        refusal = profile.admit(request.headers) or find_refusal(
            request.path, request.headers, request.body, models=self._models, size_bytes=request.size_bytes
        )
        if refusal is not None:
            await exchange.fail(refusal)
        elif request.path == COUNT_TOKENS_PATH:
            counted = profile.count(count_input_tokens(request.body))
            if isinstance(counted, Failure):
                await exchange.fail(counted)
            else:
                await exchange.send_json(200, counted)
        else:
            self._asked += 1
            interruption = profile.interrupt(request.body, self._asked)
            answer = self._choose_answer(request.body) if interruption is None else interruption
            stream = bool(request.body.get("stream"))
            if isinstance(answer, Failure):
                await exchange.fail(answer)
            elif answer.fault and not stream and answer.fault not in JSON_FAULTS:
                await exchange.fail(Failure(status=500, message=f"The script is wrong: {answer.fault} needs a stream."))
            else:
                await self._answer(exchange, answer, stream=stream)

    async def _answer(self, exchange: Exchange, turn: Turn, *, stream: bool) -> None:
        """Bill a turn, and send it as the profile does."""
        request, profile = exchange.request, self._profile
        if self._cache is not None:
            turn = replace(turn, usage=self._cache.usage_of(request.body, turn.usage))
        id_suffix = request.request_id.removeprefix("req_scripted_")
        body = request.body | ({"max_tokens": sys.maxsize} if profile.ignores_max_tokens else {})
        message = Message.compose(turn, body, id_suffix=id_suffix, model=profile.serves)
        if message.is_billed and turn.fault not in _UNBILLED_FAULTS:
            model = str(message.head["model"])
            self.bills.append(Bill(request_id=request.request_id, model=model, usage=message.usage))
        events = transform(message.events(with_usage=turn.fault != "no_usage"), profile.transformations)
        await exchange.play(turn, events, profile.framing if stream and not profile.answers_json else None)

    def _choose_answer(self, body: dict[str, Any]) -> Answer:
        opening = "\n".join(block["text"] for block in blocks_of(body["messages"][0]) if block.get("type") == "text")
        conversation = next(
            (each for marker, each in self._conversations.items() if marker in opening), self._other_conversations
        )
        return conversation.next_answer(body)
