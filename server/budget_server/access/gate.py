"""Lets in over HTTP who has a good token, or anyone as long as none is asked for.

Each request's token is looked up as it comes: a revoked one is refused from that moment on, whichever process revoked
it. The SDK binds a session to the token that opened it.
"""

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken as VerifiedToken
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from budget_server.access.tokens import Grant, Tokens
from budget_server.storage.asynchronous import AsyncFile
from budget_tools.errors import StorageUnavailableError

_GRANT = "cycles_budget_grant"


class Verifier:
    """Looks tokens up (the SDK's ``TokenVerifier``)."""

    def __init__(self, tokens: AsyncFile[Tokens]) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> VerifiedToken | None:
        """Give what is known of a token that is to be let in; its secret goes no further."""
        found = await self._tokens.run(lambda tokens: tokens.good(token))
        if found is None:
            return None
        return VerifiedToken(
            token=found.token_id,
            client_id=found.token_id,
            scopes=[],
            subject=found.grant.levels["tenant"],
            claims={_GRANT: found.grant},
        )


class Gate:
    """An ASGI application around another.

    Args:
        app: what is behind it.
        tokens: who is let in.
        is_required: ask for a token even while none has ever been made.
        open_paths: what anyone may ask.
    """

    def __init__(
        self, app: ASGIApp, tokens: AsyncFile[Tokens], *, is_required: bool, open_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._asking = RequireAuthMiddleware(app, [])
        self._backend = BearerAuthBackend(Verifier(tokens))
        self._tokens = tokens
        self._is_required = is_required
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it with 401 and nothing else."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            known = await self._backend.authenticate(HTTPConnection(scope))
            is_open = known is None and not await self._asks(scope)
        except StorageUnavailableError:
            unavailable = JSONResponse({"error": "Tokens cannot be looked up now: try again."}, 503)
            await unavailable(scope, receive, send)
            return
        if known is not None:
            scope["auth"], scope["user"] = known
        await (self._app if is_open else self._asking)(scope, receive, send)

    async def _asks(self, scope: Scope) -> bool:
        """Say whether one without a good token is refused; a bad token never counts as none."""
        if self._is_required or "authorization" in HTTPConnection(scope).headers:
            return True
        return await self._tokens.run(Tokens.any)


def grant_of(request: Request) -> Grant | None:
    """Give what a request's token allows; ``None`` where it was let in without one."""
    user = request.scope.get("user")
    if not isinstance(user, AuthenticatedUser):
        return None
    grant = (user.access_token.claims or {})[_GRANT]
    assert isinstance(grant, Grant)
    return grant
