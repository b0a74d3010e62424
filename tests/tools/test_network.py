"""Which way requests take: the proxies and certificates that a machine's environment names, as people write them."""

import os
import ssl
from pathlib import Path

import httpx
import httpx2
import pytest

from budget_tools.core.errors import ConfigurationError
from budget_tools.core.network import check_route, client_options, proxy_for

PROXY = "http://proxy.example:3128"
API = "https://api.anthropic.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of the machine's own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": PROXY}, API, PROXY),
        ({"https_proxy": PROXY}, API, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other.example:1"}, API, PROXY),
        ({"HTTP_PROXY": PROXY}, API, None),
        ({"HTTP_PROXY": PROXY}, "http://gateway.example", PROXY),
        ({"ALL_PROXY": PROXY}, API, PROXY),
        ({"ALL_PROXY": "http://other.example:1", "HTTPS_PROXY": PROXY}, API, PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, API, PROXY),
        ({"HTTPS_PROXY": f" {PROXY}\n"}, API, PROXY),
        ({"HTTPS_PROXY": ""}, API, None),
    ],
)
def test_a_proxy_is_found_as_other_programs_find_it(
    environment: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: str | None
) -> None:
    """As curl has it (its manual, ENVIRONMENT): the lower case wins, the scheme's own before the one for all."""
    for name, value in variables.items():
        environment.setenv(name, value)

    assert proxy_for(url) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_excepted"),
    [
        ("*", API, True),
        ("[::1]", API, False),
        ("[::1", API, False),
        ("[::1]", "https://[::1]:8080", True),
        ("::1", "https://[::1]:8080", True),
        ("[::1]:8080", "https://[::1]:8080", True),
        ("[::1]:8081", "https://[::1]:8080", False),
        ("fd00::/8", "https://[fd12::1]", True),
        ("localhost, 127.0.0.1,[::1]", "https://127.0.0.1:8080", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://ten.example", False),
        ("gateway.example", "https://gateway.example", True),
        ("gateway.example", "https://eu.gateway.example", True),
        ("gateway.example", "https://mygateway.example", False),
        (".example", "https://gateway.example", True),
        ("*.example", "https://gateway.example", True),
        ("GATEWAY.example", "https://gateway.EXAMPLE", True),
        ("gateway.example:443", "https://gateway.example", True),
        ("gateway.example:8443", "https://gateway.example", False),
        ("https://gateway.example", "https://gateway.example", True),
        ("http://gateway.example", "https://gateway.example", False),
        ("all://gateway.example", "https://gateway.example", True),
        (" , ,", API, False),
        ("%%%,http://,:,/,[,]", API, False),
    ],
)
def test_no_proxy_is_read_in_every_way_that_it_is_written(
    environment: pytest.MonkeyPatch, no_proxy: str, url: str, is_excepted: bool
) -> None:
    """An entry that means nothing excepts nothing, and never keeps a client from being built."""
    environment.setenv("HTTPS_PROXY", PROXY)
    environment.setenv("NO_PROXY", no_proxy)

    assert proxy_for(url) == (None if is_excepted else PROXY)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "names a SOCKS proxy, for which the Python package socksio"),
        ("HTTPS_PROXY", "socks5h://127.0.0.1:1080", "socksio"),
        ("https_proxy", "socks4://127.0.0.1:1080", "is not the address of a proxy"),
        ("HTTPS_PROXY", "ftp://user:word@proxy.example", "is not the address of a proxy"),
        ("HTTPS_PROXY", "http://proxy.example:word", "is not the address of a proxy"),
        ("HTTPS_PROXY", "http://", "is not the address of a proxy"),
        ("HTTPS_PROXY", "http://proxy .example", "is not the address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_sentence_with_its_variable(
    environment: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    """The value is not shown: a proxy's address often holds a password."""
    environment.setenv(variable, value)

    with pytest.raises(ConfigurationError, match=says) as found:
        check_route(API)

    assert found.value.message.startswith(f"{variable} ")
    assert "word" not in found.value.message
    environment.setenv("NO_PROXY", "api.anthropic.com")
    check_route(API)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_gone_are_one_sentence_with_their_variable(
    environment: pytest.MonkeyPatch, variable: str
) -> None:
    """Known without reading a certificate; of no matter to an address without TLS."""
    environment.setenv(variable, "/gone/certificates")

    with pytest.raises(ConfigurationError, match=f"^{variable} is /gone/certificates"):
        check_route(API)
    check_route("http://127.0.0.1:8080")


def test_a_file_without_certificates_is_one_sentence(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Found when a client is built."""
    path = tmp_path / "certificates.pem"
    path.write_text("none here", encoding="utf-8")
    environment.setenv("SSL_CERT_FILE", str(path))

    with pytest.raises(ConfigurationError, match=r"^SSL_CERT_FILE is .*PEM"):
        client_options(API)


def test_both_http_libraries_take_the_options(environment: pytest.MonkeyPatch) -> None:
    """The Claude API is asked through one of them, and a Cycles server through the other."""
    environment.setenv("HTTPS_PROXY", PROXY)
    environment.setenv("NO_PROXY", "[::1]")

    for url in (API, "http://127.0.0.1:1", "https://[::1]:1"):
        options = client_options(url)
        httpx.AsyncClient(**options)
        httpx2.AsyncClient(**options)
        httpx2.AsyncHTTPTransport(**options)


def test_without_tls_nobody_is_trusted(environment: pytest.MonkeyPatch) -> None:
    """No redirect or proxy may turn an address without TLS into one whose certificates were not read."""
    environment.setenv("SSL_CERT_FILE", "/gone")
    found = client_options("http://127.0.0.1:1")["verify"]

    assert isinstance(found, ssl.SSLContext)
    assert (found.verify_mode, found.cert_store_stats()["x509_ca"]) == (ssl.CERT_REQUIRED, 0)
