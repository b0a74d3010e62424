"""Gateways before the Claude API: which credentials they take, what they do not have, and the way to them."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from budget_server.config.settings import Settings
from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, Script, ScriptedClaude, Turn, Usage
from budget_server.doctor.finding import Finding
from budget_server.doctor.messages_api import ask
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.claude.endpoint import Endpoint, parsed_headers
from hosting import call, refused
from tools.delegation.harness import MODEL, OpenBench
from tools.delegation.remote import Port

pytestmark = pytest.mark.anyio

KEY, TOKEN = "sk-key-of-a-person", "token-of-a-gateway"
USAGE = Usage(input_tokens=100, output_tokens=50)
CHARGED = 70_000
"""What a turn with this usage costs on claude-sonnet-5-5, in microcents."""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither proxies nor certificates of the machine's own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("SSL_CERT", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    return monkeypatch


def error(status: int, message: str, kind: str = "some_error") -> Response:
    """An error as the API has them."""
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status)


class Gateway(ScriptedClaude):
    """A gateway that takes what it was told to take, and sees every header that came.

    Args:
        takes: the headers that it asks for, and their values.
    """

    def __init__(self, script: Script = (), *, takes: Mapping[str, str], path: str = "") -> None:
        super().__init__(script)
        self._takes = takes
        self._path = path
        self.seen: list[dict[str, str]] = []

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(headers)
        if not scope["path"].startswith(self._path):
            await Response(status_code=404)(scope, receive, send)
        elif any(headers.get(name) != value for name, value in self._takes.items()):
            await error(401, f"Missing API key, got {headers}")(scope, receive, send)
        else:
            await super()._serve({**scope, "path": scope["path"].removeprefix(self._path)}, receive, send)


@pytest.mark.parametrize(
    ("given", "takes"),
    [
        ({"anthropic_api_key": KEY}, {"x-api-key": KEY}),
        ({"anthropic_api_key": KEY}, {"authorization": f"Bearer {KEY}"}),
        ({"anthropic_auth_token": TOKEN}, {"authorization": f"Bearer {TOKEN}"}),
        (
            {"anthropic_api_key": KEY, "anthropic_auth_token": TOKEN},
            {"authorization": f"Bearer {TOKEN}", "x-api-key": KEY},
        ),
        ({"anthropic_custom_headers": f"x-api-key: {KEY}"}, {"x-api-key": KEY}),
        ({"anthropic_custom_headers": f"Authorization: Basic {TOKEN}"}, {"authorization": f"Basic {TOKEN}"}),
        (
            {"anthropic_api_key": KEY, "anthropic_custom_headers": f"\nX-Portkey-Api-Key:{TOKEN}\r\nX-Team:  a b \n"},
            {"x-api-key": KEY, "x-portkey-api-key": TOKEN, "x-team": "a b"},
        ),
        ({"anthropic_api_key": KEY, "anthropic_custom_headers": f"X-API-KEY: {TOKEN}"}, {"x-api-key": TOKEN}),
        (
            {"anthropic_api_key": KEY, "anthropic_custom_headers": "Anthropic-Version: 2023-06-01"},
            {"anthropic-version": "2023-06-01"},
        ),
    ],
)
async def test_a_gateway_gets_the_credential_where_it_looks_for_it(
    bench: OpenBench, given: dict[str, str], takes: dict[str, str]
) -> None:
    """As other clients of the API send it: a token as a bearer, a key as ``x-api-key`` too, and headers of choice."""
    gateway = Gateway([Turn(text="Done.", usage=USAGE)], takes=takes)
    settings = {"anthropic_api_key": SecretStr("")} | {name: SecretStr(value) for name, value in given.items()}
    b = await bench([], endpoint=lambda _: gateway, **settings)

    delegated = await b.delegate()

    assert (delegated["status"], delegated["text"], delegated["spent"]["amount"]) == ("completed", "Done.", CHARGED)
    assert len(gateway.seen) == 2, "a count and a message"


@asynccontextmanager
async def asking(base_url: str, directory: Path, **settings: Any) -> AsyncIterator[Client]:
    """A host of a process that asks this address."""
    given = {"anthropic_api_key": SecretStr(KEY), "anthropic_base_url": base_url, **settings}
    services = Services(Settings(budget_data_dir=directory / "data", budget_usd="1.00", **given))
    try:
        with anyio.fail_after(30):
            async with Client(create_server(services)) as client:
                yield client
    finally:
        await services.aclose()


async def estimated(client: Client) -> tuple[str, int]:
    """Estimate a prompt of one word: whose count it is, and what it may cost."""
    words = [{"role": "user", "content": "Hello."}]
    found = await call(client, "estimate_cost", messages=words, model=MODEL, max_output_tokens=10)
    (only,) = found["estimates"]
    return only["input_tokens_source"], only["worst_case"]["amount"]


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_gateway_below_a_path_is_asked_there(tmp_path: Path, end: str) -> None:
    """Such as https://gateway.example/anthropic."""
    async with (
        Gateway(takes={}, path="/tenants/7/anthropic") as gateway,
        asking(f"{gateway.base_url}/tenants/7/anthropic{end}", tmp_path) as client,
    ):
        assert (await estimated(client))[0] == "counted"


async def test_no_secret_of_a_header_is_shown_when_a_gateway_quotes_it(bench: OpenBench) -> None:
    """Its words go to hosts, and are stored."""
    gateway = Gateway(takes={"x-nothing": "that is sent"})
    headers = SecretStr(f"X-Portkey-Api-Key: {TOKEN}\nCookie: session=of-a-person")
    b = await bench([], endpoint=lambda _: gateway, anthropic_api_key=SecretStr(KEY), anthropic_custom_headers=headers)

    delegated = await b.delegate()

    assert (delegated["status"], delegated["spent"]["amount"]) == ("failed", 0)
    assert gateway.seen
    assert "Missing API key" in delegated["hint"]
    for secret in (KEY, TOKEN, "session=of-a-person"):
        assert secret not in str(delegated)


class Countless(ScriptedClaude):
    """A gateway without a route that counts, in one of the ways in which others say so."""

    said: Response = Response()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == COUNT_TOKENS_PATH:
            self.counts_asked = getattr(self, "counts_asked", 0) + 1
            await self.said(scope, receive, send)
        else:
            await super()._serve(scope, receive, send)


NO_ROUTE: Mapping[str, Response] = {
    "a page": HTMLResponse("<html>404</html>", 404),
    "nothing": Response(status_code=404),
    "FastAPI": JSONResponse({"detail": "Not Found"}, 404),
    "as the API says it": JSONResponse(
        {"type": "error", "error": {"type": "not_found_error", "message": "Not Found"}}, 404
    ),
    "the method": JSONResponse({"detail": "Method Not Allowed"}, 405),
    "not implemented": PlainTextResponse("count_tokens is not implemented", 501),
}


@pytest.mark.parametrize("how", NO_ROUTE)
async def test_an_endpoint_that_counts_no_tokens_is_asked_once_and_bounded_by_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Counting is a convenience: a bound by bytes is safe, and the log says once why it is higher."""
    endpoint = Countless([Turn(text="Done.", usage=USAGE)])
    endpoint.said = NO_ROUTE[how]
    async with endpoint, asking(endpoint.base_url, tmp_path) as client:
        source, bound = await estimated(client)
        again = await estimated(client)
        delegated = await call(client, "delegate_to_claude", task="Do it.", model=MODEL)

    assert (source, again) == ("estimated", (source, bound))
    assert (delegated["status"], delegated["spent"]["amount"]) == ("completed", CHARGED)
    assert endpoint.counts_asked == 1
    assert [each.message for each in caplog.records if "counts no tokens" in each.message] != []
    assert sum("counts no tokens" in each.message for each in caplog.records) == 1


async def test_a_model_that_is_not_there_does_not_stop_the_counting_of_others(tmp_path: Path) -> None:
    """A 404 that names the model is of the model."""
    async with ScriptedClaude(models=frozenset({MODEL})) as endpoint, asking(endpoint.base_url, tmp_path) as client:
        words = [{"role": "user", "content": "Hello."}]
        missing = await call(client, "estimate_cost", messages=words, model="claude-haiku-5-5")
        source, _ = await estimated(client)

    assert missing["estimates"][0]["input_tokens_source"] == "estimated"
    assert source == "counted"


# -- the way there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://proxy.example"),
        ("SSL_CERT_FILE", "/gone.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_DIR", "/gone"),
    ],
)
async def test_a_way_that_cannot_be_taken_is_one_sentence_and_charges_nothing(
    machine: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    """Nothing has left; estimates are made from bytes, and all else works."""
    machine.setenv(variable, value)
    async with asking("https://gateway.example", tmp_path) as client:
        source, _ = await estimated(client)
        sentence = await refused(client, "delegate_to_claude", task="Do it.")
        left = await call(client, "check_budget")
    found = await ask(Endpoint(base_url="https://gateway.example", api_key=KEY), MODEL)

    assert source == "estimated"
    assert sentence.startswith(f"CONFIGURATION: {variable} ")
    assert found.level == "problem"
    assert variable in found.text
    assert left["balances"][0]["remaining"]["usd"] == "1.00"


def test_a_way_that_cannot_be_taken_is_said_at_the_start(
    machine: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A person looks at the log of a start; the server serves all the same."""
    machine.setenv("SSL_CERT_FILE", "/gone.pem")
    Services(Settings(budget_data_dir=tmp_path, anthropic_api_key=SecretStr(KEY)))

    assert "Nothing can be delegated: SSL_CERT_FILE is /gone.pem" in caplog.text


@asynccontextmanager
async def forward_proxy(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that gives one answer, and the first lines that it was sent."""
    lines: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive()
            lines.append(received.split(b"\r\n")[0])
            await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket, not of a query
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{port}", lines
        tasks.cancel_scope.cancel()


def http(status: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """An answer as it travels."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close"
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("no_proxy", ["", "[::1]", "localhost,[::1],[::1"])
async def test_a_proxy_is_asked_whatever_else_the_variables_hold(
    machine: pytest.MonkeyPatch, tmp_path: Path, no_proxy: str
) -> None:
    """An address in brackets keeps nothing from working."""
    machine.setenv("NO_PROXY", no_proxy)
    async with forward_proxy(http("200 OK", b'{"input_tokens": 3}')) as (address, lines):
        machine.setenv("HTTP_PROXY", address)
        async with asking("http://gateway.example", tmp_path) as client:
            source, _ = await estimated(client)

    assert (source, lines) == ("counted", [b"POST http://gateway.example/v1/messages/count_tokens HTTP/1.1"])


async def test_an_address_that_is_excepted_is_asked_without_the_proxy(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A gateway of the company's own, beside a proxy for the rest."""
    machine.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    machine.setenv("NO_PROXY", "[::1], 127.0.0.0/8")
    async with ScriptedClaude() as endpoint, asking(endpoint.base_url, tmp_path) as client:
        assert (await estimated(client))[0] == "counted"


# -- doctor -----------------------------------------------------------------------------------------------------------


async def asked(said: Response, **endpoint: Any) -> Finding:
    """Ask an endpoint that gives this answer to everything."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await said(scope, receive, send)

    async with Port(app) as port:
        given = {"base_url": port.url, "api_key": KEY, **endpoint}
        with anyio.fail_after(30):
            return await ask(Endpoint(**given), MODEL)


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        (JSONResponse({"input_tokens": 3}), "ok", ("takes ANTHROPIC_API_KEY", MODEL)),
        (
            error(401, f"no {KEY}"),
            "problem",
            ("refuses ANTHROPIC_API_KEY, sent as Authorization: Bearer and x-api-key",),
        ),
        (HTMLResponse("<html>", 403), "problem", ("HTTP 403", "ANTHROPIC_CUSTOM_HEADERS")),
        (error(404, f"model: {MODEL}"), "problem", (f"has no model {MODEL}", "BUDGET_MODEL")),
        (error(404, "Not Found"), "warning", ("does not count tokens", "/v1/messages/count_tokens")),
        (HTMLResponse("<html>", 404), "warning", ("does not count tokens (HTTP 404", "ANTHROPIC_BASE_URL")),
        (JSONResponse({}, 405), "warning", ("does not count tokens (HTTP 405",)),
        (PlainTextResponse("", 501), "warning", ("does not count tokens (HTTP 501",)),
        (HTMLResponse("<html>Hello"), "problem", ("answers text/html", "ANTHROPIC_BASE_URL")),
        (JSONResponse({"status": "up"}), "problem", ("is not a count of tokens", "ANTHROPIC_BASE_URL")),
        (PlainTextResponse("{", media_type="application/json"), "problem", ("what is not JSON",)),
        (
            RedirectResponse("https://elsewhere.example/secret?key=x"),
            "problem",
            ("redirects to https://elsewhere.example",),
        ),
        (Response(status_code=302), "problem", ("redirects to another address",)),
        (error(400, f"{KEY} is not enough"), "problem", ("HTTP 400", "(a secret) is not enough")),
        (error(529, "Overloaded"), "warning", ("HTTP 529", "Overloaded", "Try again later")),
        (error(429, "Slow down."), "warning", ("HTTP 429", "Slow down. Try again later")),
        (PlainTextResponse("bad gateway", 502), "warning", ("HTTP 502",)),
        (Response(status_code=407), "problem", ("proxy wants credentials",)),
    ],
)
async def test_doctor_tells_answers_apart(said: Response, level: str, words: tuple[str, ...]) -> None:
    """What a person has to do differs with each."""
    found = await asked(said)

    assert found.level == level, found.text
    for each in words:
        assert each in found.text
    assert KEY not in found.text
    assert "secret?" not in found.text


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (
            {"api_key": "", "auth_token": TOKEN},
            "refuses ANTHROPIC_AUTH_TOKEN, sent as Authorization: Bearer (HTTP 401)",
        ),
        (
            {"api_key": "", "headers": parsed_headers(f"Authorization: Basic {TOKEN}")},
            "refuses ANTHROPIC_CUSTOM_HEADERS, sent as Authorization (HTTP 401)",
        ),
        (
            {"auth_token": TOKEN},
            "refuses ANTHROPIC_AUTH_TOKEN, sent as Authorization: Bearer and x-api-key (HTTP 401)",
        ),
    ],
)
async def test_doctor_names_the_variable_and_the_header_that_were_refused(endpoint: dict[str, Any], words: str) -> None:
    """A person has to know which of three to change."""
    assert words in (await asked(error(401, "No."), **endpoint)).text


async def test_doctor_tells_ways_apart_that_lead_nowhere(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name, a port, a proxy, TLS: each is mended elsewhere."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    await anyio.run_process(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split()
    )

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await JSONResponse({"input_tokens": 3})(scope, receive, send)

    async def text(base_url: str) -> str:
        with anyio.fail_after(30):
            return (await ask(Endpoint(base_url=base_url, api_key=KEY), MODEL)).text

    async with Port(count, ssl_keyfile=key, ssl_certfile=certificate) as secure, Port(count) as plain:
        untrusted = await text(secure.url)
        no_tls = await text(plain.url.replace("http:", "https:"))
        tls = await text(secure.url.replace("https:", "http:"))
        refused_ = await text("http://127.0.0.1:9")
        unknown = await text("http://gateway.invalid")
        machine.setenv("SSL_CERT_FILE", str(certificate))
        trusted = await text(secure.url)
        machine.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        no_proxy = await text("https://gateway.invalid")
        async with forward_proxy(http("407 Proxy Authentication Required")) as (address, _):
            machine.setenv("HTTPS_PROXY", address)
            unwanted = await text("https://gateway.invalid")

    assert "the certificate of 127.0.0.1 is not trusted" in untrusted
    assert "SSL_CERT_FILE" in untrusted
    assert "TLS with 127.0.0.1 failed" in no_tls
    assert "gave no answer" in tls
    assert "was refused: check ANTHROPIC_BASE_URL" in refused_
    assert "no address is known for the name gateway.invalid (DNS)" in unknown
    assert "takes ANTHROPIC_API_KEY" in trusted
    assert "through the proxy of HTTPS_PROXY" in no_proxy
    assert "proxy refused" in unwanted
    assert "HTTPS_PROXY" in unwanted
