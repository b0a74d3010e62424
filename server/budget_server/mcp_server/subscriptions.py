"""Notifications of changed resources, in both generations of the protocol.

Hosts of 2026-07-28 listen on a stream that the SDK serves. Earlier hosts subscribe to single resources, which the SDK
leaves to its users: their sessions are stored here. Changes made by another process are not noticed.
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from budget_tools.core.uris import BALANCES, delegation_uri, reservation_uri

PATIENCE_SECONDS = 1.0
"""Longest time that a host may take to read a notification."""

MAX_SUBSCRIPTIONS, MAX_URI_CHARACTERS = 1_000, 1_000
"""Most subscriptions of one connection, and their longest URI: they are kept in memory while the host is connected."""


class ResourceNotifier(InMemorySubscriptionBus):
    """The notifier of listeners of either generation."""

    def __init__(self) -> None:
        super().__init__()
        # By connection: a session object lives only as long as its request.
        self._subscribed: WeakKeyDictionary[object, tuple[ServerSession, set[str]]] = WeakKeyDictionary()

    def serve(self, server: Server[Any]) -> None:
        """Register the handlers of the subscriptions of earlier hosts."""
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def publish(self, event: ServerEvent) -> None:
        """Deliver an event to all listeners; a host that has gone is forgotten."""
        await super().publish(event)
        if not isinstance(event, ResourceUpdated):
            return
        for connection, (session, uris) in list(self._subscribed.items()):
            if event.uri in uris:
                try:
                    await session.send_resource_updated(event.uri)
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    self._subscribed.pop(connection, None)

    async def moved(self, arguments: Mapping[str, Any], result: CallToolResult) -> None:
        """Notify listeners of the changes by a tool that is not read-only, by the ids in its call and its result.

        The answer exists already: a host that gives up now must not stop it, and neither may a host that reads slowly.
        """
        if not self._listeners and not self._subscribed:  # publishing takes a turn of the event loop for each resource
            return
        if result.structured_content is None or result.structured_content.get("decision") == "DENY":
            return
        ids = {**arguments, **result.structured_content}
        uris = [BALANCES]
        if ids.get("reservation_id"):
            uris.append(reservation_uri(str(ids["reservation_id"])))
        if ids.get("delegation_id"):
            uris.append(delegation_uri(str(ids["delegation_id"])))
        with anyio.move_on_after(PATIENCE_SECONDS, shield=True):
            for uri in uris:
                await self.publish(ResourceUpdated(uri=uri))

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        connection = ctx.session._connection  # noqa: SLF001 - nothing else lives as long as the connection
        _, uris = self._subscribed.setdefault(connection, (ctx.session, set()))
        if len(params.uri) > MAX_URI_CHARACTERS:
            raise MCPError(code=INVALID_PARAMS, message="That is no resource of this server: its URI is too long.")
        if len(uris) >= MAX_SUBSCRIPTIONS and params.uri not in uris:
            raise MCPError(
                code=INVALID_PARAMS, message=f"{MAX_SUBSCRIPTIONS} resources are subscribed to: unsubscribe from some."
            )
        uris.add(params.uri)
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        found = self._subscribed.get(ctx.session._connection)  # noqa: SLF001 - as above
        if found is not None:
            found[1].discard(params.uri)
        return EmptyResult()
