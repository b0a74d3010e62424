"""An OAuth authorization server on loopback, as a resource server sees one: its metadata, its keys, its tokens."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from contract.face import Face
from hosting import Environment

AUDIENCE = "https://budget.example/mcp"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a key that signs with ES256."""
    return ec.generate_private_key(ec.SECP256R1())


def jwk_of(key: PrivateKey, key_id: str, **more: object) -> dict[str, Any]:
    """Publish the public half of a key."""
    public = key.public_key()
    text = RSAAlgorithm.to_jwk(public) if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm.to_jwk(public)
    return {**json.loads(text), "kid": key_id, "use": "sig", **more}


class LoopbackIssuer:
    """Signs access tokens and publishes its keys; it answers while it is an address's application.

    Args:
        address: where it is reached, such as ``http://127.0.0.1:1234``.
        path: what follows that in its issuer identifier.
    """

    def __init__(self, address: str, path: str = "/realm") -> None:
        self.url = address + path
        self.keys: dict[str, PrivateKey] = {"k1": new_key()}
        self.documents: dict[str, Any] = {}
        """What it answers at a path instead of what is right: an object, a response, or text."""
        self.is_down = False
        self.asked: list[str] = []
        """Every path that was asked for."""
        self._app = Starlette(
            routes=[
                Route(f"/.well-known/oauth-authorization-server{path}", self._metadata),
                Route(f"{path}/keys", self._key_set),
            ]
        )

    @property
    def key_fetches(self) -> int:
        """How often its keys were asked for."""
        return sum(path.endswith("/keys") for path in self.asked)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as it should, or as a test wants it to."""
        path = scope["path"]
        self.asked.append(path)
        app: Any = self._app
        if self.is_down:
            app = Response(status_code=503)
        elif path in self.documents:
            app = self.documents[path]
        await app(scope, receive, send)

    def token(self, key_id: str = "k1", header: dict[str, Any] | None = None, **claims: object) -> str:
        """Sign a token that is good, but for the claims that are given; a claim that is ``None`` is left out."""
        key = self.keys[key_id]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        headers = {"kid": key_id, "typ": "at+jwt", **(header or {})}
        named = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(self.claims(**claims), key, algorithm=algorithm, headers=named)

    def claims(self, **claims: object) -> dict[str, Any]:
        """Give the claims of a good token, but for those that are given."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "user-1",
            "client_id": "client-1",
            "iat": now,
            "exp": now + 600,
        }
        return {name: value for name, value in (good | claims).items() if value is not None}

    def trusted_by(self, environment: Environment, **settings: str) -> Environment:
        """Give the environment of a server that takes its tokens."""
        named = {f"BUDGET_OAUTH_{name.upper()}": value for name, value in settings.items()}
        return environment | {"BUDGET_OAUTH_ISSUER": self.url, "BUDGET_OAUTH_AUDIENCE": AUDIENCE} | named

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _key_set(self, _: Request) -> Response:
        return JSONResponse({"keys": [jwk_of(key, key_id) for key_id, key in self.keys.items()]})


def issuer_at(face: Face) -> LoopbackIssuer:
    """Make the application of an address an issuer."""
    issuer = LoopbackIssuer(face.address)
    face.app = issuer
    return issuer
