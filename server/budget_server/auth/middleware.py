"""Authentication of HTTP requests; all requests are allowed if no token is required.

Two kinds of tokens exist: ours, known by their prefix, and the access tokens of an OAuth issuer, if one is set. The
token is checked on every request: a revoked token of ours is refused from that moment on, in every process. The SDK
binds a session to the user who opened it.
"""

from typing import TYPE_CHECKING

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken as VerifiedToken
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from budget_server.auth.tokens import SECRET_PREFIX, Grant, Tokens
from budget_server.database.asynchronous import AsyncFile
from budget_tools.core.errors import IssuerUnavailableError, StorageUnavailableError

if TYPE_CHECKING:
    from budget_server.auth.resource_metadata import ProtectedResource

_GRANT = "cycles_budget_grant"


class Verifier:
    """The verifier of tokens of either kind (the SDK's ``TokenVerifier``).

    Args:
        tokens: ours.
        resource: the OAuth resource whose tokens are accepted as well, if any.
    """

    def __init__(self, tokens: AsyncFile[Tokens], resource: "ProtectedResource | None") -> None:
        self._tokens = tokens
        self._resource = resource

    async def verify_token(self, token: str) -> VerifiedToken | None:
        """Return the verified data of a token; ``None`` if it is refused. Its secret is not passed on."""
        if token.startswith(SECRET_PREFIX):
            return await self._ours(token)
        return None if self._resource is None else await self._of_issuer(self._resource, token)

    async def _ours(self, token: str) -> VerifiedToken | None:
        found = await self._tokens.run(lambda tokens: tokens.good(token))
        if found is None:
            return None
        return VerifiedToken(
            token=found.token_id,
            client_id=found.token_id,
            scopes=[] if self._resource is None else self._resource.required_scopes,  # tokens of ours have all scopes
            subject=found.grant.levels["tenant"],
            claims={_GRANT: found.grant},
        )

    async def _of_issuer(self, resource: "ProtectedResource", token: str) -> VerifiedToken | None:
        found = await resource.tokens.good(token)
        if found is None:
            return None
        return VerifiedToken(
            token=found.client_id,
            client_id=found.client_id,
            scopes=found.scopes,
            subject=found.subject,
            claims={"iss": found.issuer, _GRANT: found.grant},
        )


class AuthMiddleware:
    """An ASGI application around another, which authenticates its requests.

    Args:
        app: the application behind it.
        tokens: the tokens that are accepted.
        resource: this server as an OAuth resource, if clients of an issuer are accepted.
        is_required: require a token even if none has ever been created.
        open_paths: paths open to all clients.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: AsyncFile[Tokens],
        *,
        resource: "ProtectedResource | None",
        is_required: bool,
        open_paths: frozenset[str],
    ) -> None:
        self._app = app
        if resource is None:
            self._asking = RequireAuthMiddleware(app, [])
        else:
            self._asking = RequireAuthMiddleware(app, resource.required_scopes, resource.metadata_url)
        self._backend = BearerAuthBackend(Verifier(tokens, resource))
        self._tokens = tokens
        self._is_required = is_required
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it with 401, with 403 for a missing scope, or with 503."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            known = await self._backend.authenticate(HTTPConnection(scope))
            is_open = known is None and not await self._asks(scope)
        except (StorageUnavailableError, IssuerUnavailableError):
            unavailable = JSONResponse({"error": "Tokens cannot be looked up now: try again."}, 503)
            await unavailable(scope, receive, send)
            return
        if known is not None:
            scope["auth"], scope["user"] = known
        await (self._app if is_open else self._asking)(scope, receive, send)

    async def _asks(self, scope: Scope) -> bool:
        """Return whether a request without a token is refused; a bad token never counts as no token."""
        if self._is_required or "authorization" in HTTPConnection(scope).headers:
            return True
        return await self._tokens.run(Tokens.any)


def grant_of(request: Request) -> Grant | None:
    """Return the rights of a request's token; ``None`` if it was accepted without one."""
    user = request.scope.get("user")
    if not isinstance(user, AuthenticatedUser):
        return None
    grant = (user.access_token.claims or {})[_GRANT]
    assert isinstance(grant, Grant)
    return grant
