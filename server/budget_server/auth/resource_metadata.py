"""This server as an OAuth resource: the issuer it accepts, and where clients discover it (RFC 9728)."""

from urllib.parse import urlsplit

from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.auth.settings import AuthSettings
from starlette.routing import Route

from budget_server.auth.issuer import Issuer
from budget_server.auth.oauth import OAuthTokens
from budget_server.config.settings import Settings


class ProtectedResource:
    """The OAuth resource that clients of an issuer see.

    Args:
        settings: the issuer, this server's address, and the scopes.
    """

    def __init__(self, settings: Settings) -> None:
        self.tokens = OAuthTokens(
            settings, Issuer(settings.budget_oauth_issuer, jwks_url=settings.budget_oauth_jwks_url)
        )
        self.required_scopes = list(settings.budget_oauth_scopes)
        # The SDK's model preserves both addresses to the letter, which clients compare; it adds no slash.
        addresses = AuthSettings.model_validate(
            {
                "issuer_url": settings.budget_oauth_issuer,
                "resource_server_url": settings.budget_oauth_audience,
                "validate_token_resource": False,  # the audience is checked together with the signature
            }
        )
        assert addresses.resource_server_url is not None
        self.metadata_url = build_resource_metadata_url(addresses.resource_server_url)
        self.metadata_path = urlsplit(str(self.metadata_url)).path
        self.host = addresses.resource_server_url.host or ""
        delegate_scope = settings.budget_oauth_delegate_scope
        scopes = [*self.required_scopes, *([delegate_scope] if delegate_scope else [])]
        self.routes: list[Route] = create_protected_resource_routes(
            addresses.resource_server_url,
            [addresses.issuer_url],
            scopes_supported=list(dict.fromkeys(scopes)) or None,
            resource_name="Cycles budget",
        )
