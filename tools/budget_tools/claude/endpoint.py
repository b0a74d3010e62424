"""The address of the Messages API, Anthropic's own or a gateway's, and the credentials of its requests.

    set                         sent to api.anthropic.com    sent to any other address
    ANTHROPIC_API_KEY           Authorization: Bearer KEY    Authorization: Bearer KEY and x-api-key: KEY
    ANTHROPIC_AUTH_TOKEN        Authorization: Bearer TOKEN  Authorization: Bearer TOKEN
    both                        Authorization: Bearer KEY    Authorization: Bearer TOKEN and x-api-key: KEY
    ANTHROPIC_CUSTOM_HEADERS    these, in the place of a header of the same name

Since version 2 the SDK sends a key as a bearer token. Gateways built for earlier versions look for ``x-api-key`` alone,
and gateways do not refuse the other header beside it: both hold the same key for the same receiver.

Every bad setting is refused here, before a client is built: the SDK would find it in the middle of a call.
"""

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from budget_tools.core.network import client_options

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic

DEFAULT_BASE_URL = "https://api.anthropic.com"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110, field-value: the characters that every server reads alike
_FRAMING = frozenset({"content-length", "transfer-encoding", "content-encoding", "connection"})
_SECRET_HEADER = re.compile(r"auth|key|token|secret|password|cookie|credential", re.IGNORECASE)

_NOT_FOUND = 404
_NO_SUCH_METHOD = frozenset({405, 501})

_KEEPALIVE_SECONDS = 60
_KEEPALIVE_PROBES = 5


def checked_credential(value: str) -> str:
    """Check a key or a token, which is sent as a header.

    Raises:
        ValueError: it holds a character that keys do not have; the message does not show it.
    """
    # Visible ASCII without quotes, which some files of variables keep around a value.
    if not re.fullmatch(r"[!#-&(-~]*", value):
        raise ValueError(
            "must be without blanks, line ends, quotes and other characters that no key has: copy it again, without "
            "what is around it"
        )
    return value


def checked_base_url(value: str) -> str:
    """Check the address that paths such as ``/v1/messages`` are added to.

    Raises:
        ValueError: requests would reach no server, or a path that does not exist.
    """
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an address such as https://gateway.example, with its scheme and without blanks")
    segments = [each for each in parts.path.split("/") if each]
    if "v1" in segments[-1:] or "/v1/messages" in parts.path:
        raise ValueError("must end before /v1, which every request adds to it: leave /v1 and what follows out")
    return value


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if the port is not a number
    except ValueError:
        return None
    return parts if url.isprintable() and " " not in url else None


def has_no_route(status: int, body: object, model: str) -> bool:
    """Return whether a path does not exist at an endpoint, rather than the model that was asked for."""
    if status in _NO_SUCH_METHOD:
        return True
    error = body.get("error") if isinstance(body, dict) else None
    said = str(error.get("message") or "") if isinstance(error, dict) else ""
    return status == _NOT_FOUND and "model" not in said.lower() and (not model or model not in said)


def parsed_headers(text: str) -> dict[str, str]:
    """Parse headers from lines of ``Name: value``, as other clients of the API do.

    Raises:
        ValueError: a line is not a header, or one that HTTP does not allow; the message shows no value.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(re.split(r"\r?\n", text), start=1):
        name, colon, value = (part.strip(" \t") for part in line.partition(":"))
        if not line.strip():
            continue
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"must be lines of Name: value, and line {number} is not")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"must have values that HTTP takes: that of its header {name} has a line end, or a character that is "
                "not ASCII"
            )
        if name.lower() in _FRAMING:
            raise ValueError(f"must leave that to the client: its header {name} says how a message is sent")
        headers = {each: kept for each, kept in headers.items() if each.lower() != name.lower()} | {name: value}
    return headers


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """The Messages API at one address, for one sender; its parts have been checked."""

    base_url: str = DEFAULT_BASE_URL
    api_key: str = field(default="", repr=False)
    auth_token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Headers sent beside, or instead of, the client's own."""

    @property
    def is_gateway(self) -> bool:
        """Whether the address is not Anthropic's own."""
        host = urlsplit(self.base_url).hostname or ""
        return host != "anthropic.com" and not host.endswith(".anthropic.com")

    @property
    def has_credential(self) -> bool:
        """Whether requests carry a credential."""
        return bool(self.api_key or self.auth_token or self._custom("authorization") or self._custom("x-api-key"))

    @property
    def credential(self) -> str:
        """The name of the variable with the credential, for sentences to a person."""
        if self._custom("authorization") or self._custom("x-api-key"):
            return "ANTHROPIC_CUSTOM_HEADERS"
        is_token = self.auth_token and (self.is_gateway or not self.api_key)
        return "ANTHROPIC_AUTH_TOKEN" if is_token else "ANTHROPIC_API_KEY"

    @property
    def sent_headers(self) -> Sequence[str]:
        """The names of the headers with the credential, for sentences to a person."""
        bearer = "Authorization" if self._custom("authorization") else "Authorization: Bearer"
        return [bearer, "x-api-key"] if self._added() or self._custom("x-api-key") else [bearer]

    @property
    def secrets(self) -> Sequence[str]:
        """Strings that sentences may not show, the longest first."""
        values = [value for name, value in self.headers.items() if _SECRET_HEADER.search(name)]
        words = [word for value in values for word in (value, *value.split())]
        return sorted(filter(None, (self.api_key, self.auth_token, *words)), key=len, reverse=True)

    def open_client(self, **options: Any) -> "AsyncAnthropic":  # noqa: ANN401 - passed on to the SDK
        """Build a client that tries once, follows no redirect, and reads no files or profiles.

        Raises:
            ConfigurationError: a variable that sets the route of requests cannot be used.
        """
        import anthropic  # imported here: about a second that no start should wait for

        route = client_options(self.base_url)
        token = self.auth_token if self.is_gateway or not self.api_key else ""
        key = "" if token else self.api_key or self._custom("x-api-key")
        return anthropic.AsyncAnthropic(
            # Without a credential, the SDK would look for one; a custom header replaces this one.
            api_key=key or None,
            auth_token=None if key else token or "in-a-custom-header",
            base_url=self.base_url,
            max_retries=0,
            default_headers={**self._added(), **self.headers},
            # A redirect would send one reserved message twice, and the key to any host that the answer names.
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False, transport=_transport(route)),
            **options,
        )

    def _added(self) -> dict[str, str]:
        if self.api_key and self.is_gateway and not self._custom("x-api-key"):
            return {"X-Api-Key": self.api_key}
        return {}

    def _custom(self, name: str) -> str:
        return next((value for each, value in self.headers.items() if each.lower() == name), "")


def _transport(route: Mapping[str, Any]) -> "httpx2.AsyncHTTPTransport":
    """Build the SDK's transport with our proxy and certificates: long streams need its keepalive."""
    import anthropic
    import httpx2

    options: list[Any] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)]
    for name, value in (
        ("TCP_KEEPINTVL", _KEEPALIVE_SECONDS),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", _KEEPALIVE_SECONDS),
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return httpx2.AsyncHTTPTransport(**route, limits=anthropic.DEFAULT_CONNECTION_LIMITS, socket_options=options)
