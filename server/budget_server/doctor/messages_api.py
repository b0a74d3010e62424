"""A check that the Claude API, or the gateway in its place, answers: one free request, and its outcome's meaning."""

import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from budget_server.doctor.finding import Finding, ok, problem, warning
from budget_tools.claude.endpoint import Endpoint, has_no_route
from budget_tools.core.errors import ConfigurationError
from budget_tools.core.network import proxy_for, proxy_variable
from budget_tools.core.text_safety import beginning

if TYPE_CHECKING:
    from anthropic import APIStatusError

REQUEST_SECONDS = 15.0
"""Longest wait for an answer."""

_PROXY_WANTS_CREDENTIALS = 407


async def ask(endpoint: Endpoint, model: str) -> Finding:
    """Request a token count of one word from the endpoint, and report the outcome."""
    import anthropic  # here: about a second that few runs should wait for
    import httpx2

    try:
        client = endpoint.open_client(timeout=REQUEST_SECONDS)
    except ConfigurationError as exc:
        return problem(f"Nothing can reach the Claude API: {exc.message}")
    try:
        answer = await client.messages.with_raw_response.count_tokens(
            model=model, messages=[{"role": "user", "content": "Hello"}]
        )
        counted: object = getattr(await answer.parse(), "input_tokens", None)
    except anthropic.APIStatusError as exc:
        return _refused(endpoint, model, exc)
    except (anthropic.APIConnectionError, httpx2.HTTPError, OSError) as exc:
        return problem(f"The Claude API gave no answer: {_unreached(endpoint, exc)}")
    except (anthropic.AnthropicError, ValueError):
        return problem(_foreign(endpoint, "what is not JSON"))
    finally:
        await client.close()
    if type(counted) is not int:
        return problem(_foreign(endpoint, answer.headers.get("content-type", "something without a type")))
    return ok(f"The Claude API takes {endpoint.credential}, and serves {model}{_behind(endpoint)}")


def _behind(endpoint: Endpoint) -> str:
    return f", at {_origin(endpoint.base_url)}" if endpoint.is_gateway else ""


def _refused(endpoint: Endpoint, model: str, exc: "APIStatusError") -> Finding:
    status = exc.status_code
    if status in (401, 403):
        sent = " and ".join(endpoint.sent_headers)
        other = ", or say in ANTHROPIC_CUSTOM_HEADERS which header it wants" if endpoint.is_gateway else ""
        return problem(
            f"The Claude API refuses {endpoint.credential}, sent as {sent} (HTTP {status}): make a new one{other}."
        )
    if 300 <= status < 400:
        leads_to = _origin(exc.response.headers.get("location", "")) or "another address"
        return problem(
            f"{_origin(endpoint.base_url)} redirects to {leads_to} (HTTP {status}), which is not followed: set "
            "ANTHROPIC_BASE_URL to the address that it leads to."
        )
    if status == _PROXY_WANTS_CREDENTIALS:
        return problem(f"The proxy wants credentials (HTTP {status}): write them into {_proxy_name(endpoint)}.")
    if has_no_route(status, exc.body, model):
        return warning(
            f"{_origin(endpoint.base_url)} does not count tokens (HTTP {status} to a POST to "
            f"{urlsplit(endpoint.base_url).path.rstrip('/')}/v1/messages/count_tokens), so prompts are bounded by their"
            f" bytes. Whether it takes {endpoint.credential} and has {model} is not known; if it does not delegate "
            "either, ANTHROPIC_BASE_URL is not where the Messages API is."
        )
    if status == 404:
        return problem(
            f"The Claude API takes {endpoint.credential}, but has no model {model}: set another BUDGET_MODEL."
        )
    said = _words_of(endpoint, exc)
    if status < 500 and status != 429:
        return problem(f"The Claude API refuses a count of tokens (HTTP {status}){said}")
    return warning(f"The Claude API answered HTTP {status} to a count of tokens{said} Try again later.")


def _words_of(endpoint: Endpoint, exc: "APIStatusError") -> str:
    said = str(exc.api_message or "")
    for secret in endpoint.secrets:
        said = said.replace(secret, "(a secret)")
    return f": {beginning(said).rstrip('.')}." if said else "."


def _foreign(endpoint: Endpoint, what: str) -> str:
    return (
        f"{_origin(endpoint.base_url)} answers {beginning(what)}, which is not a count of tokens: ANTHROPIC_BASE_URL "
        "is not the address of a Messages API."
    )


def _unreached(endpoint: Endpoint, exc: BaseException) -> str:
    """Return why a request got no answer, from the first error that names a cause."""
    import anthropic
    import httpx2

    causes = list(_causes(exc))
    host = urlsplit(endpoint.base_url).hostname
    proxy = proxy_for(endpoint.base_url)
    through = f"through the proxy of {_proxy_name(endpoint)} " if proxy else ""
    check = f"check {_proxy_name(endpoint)} and ANTHROPIC_BASE_URL" if proxy else "check ANTHROPIC_BASE_URL"
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {host} is not trusted ({cause.verify_message}): if a proxy of your company signs "
                "it, set SSL_CERT_FILE to a file with its certificates."
            )
        if isinstance(cause, ssl.SSLError):
            return f"TLS with {host} failed {through}({cause.reason or cause}): check http or https, {check}."
        if isinstance(cause, socket.gaierror):
            name = urlsplit(proxy).hostname if proxy else host
            return f"no address is known for the name {name} (DNS): {check}, and the network."
        if isinstance(cause, ConnectionRefusedError):
            return f"the connection {through}to {_origin(endpoint.base_url)} was refused: {check}."
        if isinstance(cause, httpx2.ProxyError):
            return f"the proxy refused ({beginning(str(cause))}): check {_proxy_name(endpoint)}, or set NO_PROXY."
    if any(isinstance(cause, anthropic.APITimeoutError | httpx2.TimeoutException) for cause in causes):
        return f"nothing came {through}within {REQUEST_SECONDS:g} s: check the network, {check.removeprefix('check ')}."
    return f"the connection {through}broke ({type(causes[-1]).__name__}): check the network, {check}."


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        if isinstance(exc, BaseExceptionGroup):
            for each in exc.exceptions:
                yield from _causes(each)
        exc = exc.__cause__ or exc.__context__


def _proxy_name(endpoint: Endpoint) -> str:
    return proxy_variable(urlsplit(endpoint.base_url).scheme)


def _origin(url: str) -> str:
    """Return the origin of an address, without any part that may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else ""
