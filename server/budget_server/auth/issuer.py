"""The keys of an OAuth authorization server: their address, and how long they are trusted.

They are fetched when a token first needs one, so that a server starts even if its issuer is down. The issuer is asked
at a limited rate, however many tokens name an unknown key; and however long it is down, a key that it may have
withdrawn meanwhile is not trusted forever.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls
from pydantic import BaseModel, ValidationError

from budget_server.config.urls import is_protected
from budget_tools.core.errors import ConfigurationError, IssuerUnavailableError
from budget_tools.core.network import client_options

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}  # RFC 7518, RFC 8037
)
"""Accepted signature algorithms, none with a shared secret: a party that can check those could make them."""

FRESH_SECONDS = 300.0
"""Age of keys at which the issuer is asked again for its current ones."""

LIFETIME_SECONDS = 3_600.0
"""Age up to which keys are used if the issuer does not answer."""

FETCH_SECONDS = 10.0
"""Longest wait for its keys, including discovery of their address."""

MAX_FETCHES, WINDOW_SECONDS = 6, 60.0
"""Most fetches in a window of this many seconds, regardless of the tokens that arrive."""

MAX_BYTES = 256 << 10
"""Longest answer of an issuer that is read."""


class _Metadata(BaseModel):
    """The required part of the metadata of an authorization server (RFC 8414; OpenID Connect Discovery 1.0)."""

    issuer: str
    jwks_uri: str


class Keys:
    """The keys of a JWK Set that check signatures (RFC 7517).

    Args:
        document: the set as it was published.
        read_at: when it was read, in seconds of the reader's clock.
    """

    def __init__(self, document: Mapping[str, Any], read_at: float) -> None:
        published = document.get("keys")
        entries = [each for each in published if isinstance(each, dict)] if isinstance(published, list) else []
        self._entries = [each for each in entries if _checks_signatures(each)]
        self._made: dict[tuple[str, str], PyJWK] = {}
        self.read_at = read_at

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key_id: str, algorithm: str) -> PyJWK | None:
        """Return the key of this name if it is for this algorithm."""
        made = self._made.get((key_id, algorithm))
        if made is not None:
            return made
        for entry in self._entries:
            if entry["kid"] == key_id and entry.get("alg", algorithm) == algorithm:
                try:
                    key = PyJWK(entry, algorithm)
                except PyJWTError:
                    continue
                self._made[key_id, algorithm] = key
                return key
        return None


class Issuer:
    """An authorization server whose signatures are trusted.

    Args:
        url: its issuer identifier, exactly as it writes it.
        jwks_url: the address of its keys; discovered from its metadata if left out.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, url: str, *, jwks_url: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._jwks_url = jwks_url
        self._clock = clock
        self._keys: Keys | None = None
        self._trouble = ""
        self._turn = anyio.Lock()
        self._answers = 0
        self._fetches: deque[float] = deque(maxlen=MAX_FETCHES)

    async def key(self, key_id: str, algorithm: str) -> PyJWK | None:
        """Return the key of this name; ``None`` if the issuer has none for the algorithm.

        Raises:
            IssuerUnavailableError: no keys are known.
        """
        keys = self._keys
        if keys is not None and self._clock() - keys.read_at < FRESH_SECONDS:
            found = keys.find(key_id, algorithm)
            if found is not None:
                return found
        return (await self._renewed()).find(key_id, algorithm)

    async def read(self) -> Keys:
        """Fetch the keys from the issuer.

        Raises:
            IssuerUnavailableError: the issuer returns none.
        """
        try:
            with anyio.fail_after(FETCH_SECONDS):
                keys = Keys(await self._get(self._jwks_url or await self._discovered()), self._clock())
        except TimeoutError:
            raise self._unavailable(f"gave no answer within {FETCH_SECONDS:g} s") from None
        except httpx2.HTTPError as exc:
            raise self._unavailable(f"cannot be reached ({type(exc).__name__})") from exc
        if not keys:
            raise self._unavailable("publishes no key that checks signatures")
        return keys

    async def _renewed(self) -> Keys:
        answers = self._answers
        async with self._turn:
            # Callers that waited meanwhile share the answer of the first one.
            if self._answers == answers and self._may_ask():
                try:
                    self._keys, self._trouble = await self.read(), ""
                except IssuerUnavailableError as exc:
                    self._trouble = exc.message
                    logger.warning("%s", exc.message)
                self._answers += 1
        keys = self._keys
        if keys is None or self._clock() - keys.read_at >= LIFETIME_SECONDS:
            raise IssuerUnavailableError(self._trouble or f"The OAuth issuer {self._url} was asked too often.")
        return keys

    def _may_ask(self) -> bool:
        now = self._clock()
        if len(self._fetches) == MAX_FETCHES and now - self._fetches[0] < WINDOW_SECONDS:
            return False
        self._fetches.append(now)
        return True

    async def _discovered(self) -> str:
        """Find the address of the keys in the issuer's metadata, at the first of its addresses that has any."""
        refusal: IssuerUnavailableError | None = None
        for url in build_oauth_authorization_server_metadata_discovery_urls(self._url, self._url):
            try:
                document = await self._get(url)
            except IssuerUnavailableError as exc:
                refusal = refusal or exc
                continue
            try:
                metadata = _Metadata.model_validate(document)
            except ValidationError:
                raise self._unavailable(f"has no jwks_uri in {url}: set BUDGET_OAUTH_JWKS_URL") from None
            if metadata.issuer != self._url:  # RFC 8414, section 3.3
                raise self._unavailable(f"calls itself something else in {url}: set BUDGET_OAUTH_ISSUER to that")
            # Another user of this machine could answer at one of its ports: only an issuer on this machine may name
            # such an address.
            if not is_protected(metadata.jwks_uri) or (_is_https(self._url) and not _is_https(metadata.jwks_uri)):
                raise self._unavailable(f"names an address of its keys in {url} that is not https")
            return metadata.jwks_uri
        assert refusal is not None
        raise refusal

    async def _get(self, url: str) -> dict[str, Any]:
        """Read a JSON object; redirects are not followed, and a proxy is used only if TLS goes through it."""
        body = bytearray()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            route = client_options(url) if _is_https(url) else {"trust_env": False}
        except ConfigurationError as exc:
            raise self._unavailable(f"cannot be reached: {exc.message.rstrip('.')}") from exc
        async with (
            httpx2.AsyncClient(follow_redirects=False, **route) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise self._unavailable(f"answered HTTP {response.status_code} at {url}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise self._unavailable(f"answered more than {MAX_BYTES >> 10} KiB at {url}")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self._unavailable(f"answered no JSON object at {url}")
        return document

    def _unavailable(self, why: str) -> IssuerUnavailableError:
        return IssuerUnavailableError(f"The OAuth issuer {self._url} {why}.")


def _is_https(url: str) -> bool:
    return url.lower().startswith("https:")


def _checks_signatures(entry: Mapping[str, Any]) -> bool:
    """Return whether a JWK is a named public key for signatures; its ``alg``, if present, must be an accepted one."""
    operations = entry.get("key_ops")
    return (
        isinstance(entry.get("kid"), str)
        and entry.get("kty") in ("RSA", "EC", "OKP")
        and entry.get("use", "sig") == "sig"
        and (not isinstance(operations, list) or "verify" in operations)
        and ("alg" not in entry or entry["alg"] in ALGORITHMS)
    )
