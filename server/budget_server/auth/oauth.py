"""Access tokens of an OAuth authorization server: signed JWTs, and the rights of each by the server's settings.

This server is a resource server only (MCP, Authorization): it checks the issuer's signatures, and signs nothing. A
token is for its audience alone (RFC 8707) and is never passed on.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
from jwt import exceptions as wrong

from budget_server.auth.issuer import ALGORITHMS, Issuer
from budget_server.auth.tokens import Grant
from budget_server.config.settings import Settings
from budget_server.mcp_server.server import TOOLS
from budget_tools.core.scopes import LEVEL_VALUE
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools import delegate_to_claude

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 30
"""Most that the issuer's clock and this one may differ."""

MAX_TOKEN_CHARACTERS = 16 << 10
"""Longest token that is read."""

SAID_AGAIN_SECONDS = 60.0
"""Interval at which the log repeats why a token was refused: senders of bad tokens must not fill it."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Accepted types of a token, if it names one (RFC 9068): logout tokens and proofs of possession are excluded."""

_EVERY_TOOL = frozenset(tool.name for tool in TOOLS)

_REASONS: tuple[tuple[type[wrong.PyJWTError], str], ...] = (
    (wrong.ExpiredSignatureError, "it has expired"),
    (wrong.ImmatureSignatureError, "it is not good yet: are both clocks right?"),
    (wrong.InvalidAudienceError, "it is for another audience than BUDGET_OAUTH_AUDIENCE"),
    (wrong.InvalidIssuerError, "it is of another issuer than BUDGET_OAUTH_ISSUER"),
    (wrong.MissingRequiredClaimError, "it lacks one of the claims iss, aud, exp, sub"),
    (wrong.InvalidSignatureError, "the key that it names did not sign it"),
)
"""The log's reasons for refusing a token; they contain nothing that came with it."""


class Admission(NamedTuple):
    """The tenant and the rights of an accepted token."""

    client_id: str
    subject: str
    """Its subject and the levels it spends as: a session opened as one tenant does not serve another."""
    issuer: str
    scopes: list[str]
    grant: Grant


class _RefusedError(Exception):
    """The reason why a token is refused."""


class OAuthTokens:
    """The tokens of one issuer.

    Args:
        settings: the issuer, this server's audience, and the meaning of a token's claims and scopes.
        issuer: the holder of the keys.
    """

    def __init__(self, settings: Settings, issuer: Issuer) -> None:
        self._settings = settings
        self._issuer = issuer
        self._said_at: dict[str, float] = {}

    async def good(self, token: str) -> Admission | None:
        """Return the rights of a token; ``None`` if it is refused.

        Raises:
            IssuerUnavailableError: it may be good, but its issuer returns no keys.
        """
        try:
            return self._admission(await self._claims(token))
        except _RefusedError as exc:
            self._log(f"An OAuth access token was refused: {exc}.")
            return None

    async def _claims(self, token: str) -> Mapping[str, Any]:
        """Check a token, and return its claims (RFC 9068, section 4; RFC 8725)."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _RefusedError("it is too long")
        try:
            header = jwt.get_unverified_header(token)
        except wrong.PyJWTError:
            raise _RefusedError("it is no JWT: does the issuer give opaque tokens?") from None
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _RefusedError("it is not signed by a public key's algorithm")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _RefusedError("it is another kind of JWT than an access token")
        if not isinstance(key_id, str):
            raise _RefusedError("it names no key (kid)")
        key = await self._issuer.key(key_id, algorithm)
        if key is None:
            raise _RefusedError("the issuer has no key of the name and algorithm that it gives")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.budget_oauth_audience,
                issuer=self._settings.budget_oauth_issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "aud", "exp", "sub"], "enforce_minimum_key_length": True},
            )
        except wrong.PyJWTError as exc:
            reason = next((said for kind_of, said in _REASONS if isinstance(exc, kind_of)), "it is no valid JWT")
            raise _RefusedError(reason) from None
        return claims

    def _admission(self, claims: Mapping[str, Any]) -> Admission:
        if "cnf" in claims:
            raise _RefusedError("it is bound to a key of its client, which is not checked here (cnf)")
        levels = self._levels(claims)
        scopes = _scopes(claims)
        settings = self._settings
        may_delegate = not settings.budget_oauth_delegate_scope or settings.budget_oauth_delegate_scope in scopes
        return Admission(
            client_id=str(claims.get("client_id") or claims.get("azp") or claims["sub"]),
            subject=f"{claims['sub']} as {Subject(levels)}",
            issuer=settings.budget_oauth_issuer,
            scopes=scopes,
            grant=Grant(
                levels=levels,
                tools=None if may_delegate else _EVERY_TOOL - {delegate_to_claude.TOOL.name},
                ceiling_microcents=settings.budget_oauth_ceiling_usd,
            ),
        )

    def _levels(self, claims: Mapping[str, Any]) -> dict[str, str]:
        """Return the spender's levels; a bad or missing claim never leaves its level open: that would grant more."""
        own_tenant = self._settings.subject.tenant
        levels = {"tenant": own_tenant}
        for level, claim in self._settings.budget_oauth_subject.items():
            value = claims.get(claim)
            if not isinstance(value, str) or not LEVEL_VALUE.fullmatch(value) or value != value.lower():
                raise _RefusedError(
                    f"its claim {claim!r} must name the {level} (BUDGET_OAUTH_SUBJECT), "
                    "in 1 to 128 lower-case letters, digits, '_', '.' or '-'"
                )
            levels[level] = value
        if self._settings.is_remote and levels["tenant"] != own_tenant:
            raise _RefusedError("it names another tenant than CYCLES_API_KEY speaks for")
        return levels

    def _log(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._said_at.get(sentence, -SAID_AGAIN_SECONDS) >= SAID_AGAIN_SECONDS:
            self._said_at[sentence] = now
            logger.warning("%s", sentence)


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    """Read the scopes of a token: ``scope`` (RFC 9068), or ``scp``, as some issuers write it, also as a list."""
    given = claims.get("scope", claims.get("scp", ""))
    if isinstance(given, str):
        return given.split()
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
