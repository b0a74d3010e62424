"""The keys of an issuer: how long they are believed, how often it is asked, and what is not believed at all."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from budget_server.auth import issuer as limits
from budget_server.auth.issuer import FRESH_SECONDS, LIFETIME_SECONDS, MAX_BYTES, Issuer
from budget_tools.core.errors import IssuerUnavailableError
from contract.face import Face
from issuing import LoopbackIssuer, issuer_at, jwk_of, new_key

pytestmark = pytest.mark.anyio

METADATA = "/.well-known/oauth-authorization-server/realm"
KEYS = "/realm/keys"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def server(face: Face) -> Iterator[LoopbackIssuer]:
    """The issuer itself."""
    yield issuer_at(face)
    face.app = None


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def issuer(server: LoopbackIssuer, clock: Clock) -> Issuer:
    """The issuer as this server knows it."""
    return Issuer(server.url, clock=clock)


async def trouble(issuer: Issuer) -> str:
    """Ask for a key that cannot be had, and give the sentence."""
    with pytest.raises(IssuerUnavailableError) as refused:
        await issuer.key("k1", "ES256")
    assert "\n" not in refused.value.message
    return refused.value.message


async def test_keys_are_asked_for_once_and_again_when_they_are_old(
    server: LoopbackIssuer, issuer: Issuer, clock: Clock
) -> None:
    """A key that was withdrawn is forgotten without anybody asking for another."""
    before = [await issuer.key("k1", "ES256") for _ in range(3)]
    server.keys = {"k2": new_key()}
    clock.now = FRESH_SECONDS - 1
    still = await issuer.key("k1", "ES256")
    fetches = server.key_fetches
    clock.now = FRESH_SECONDS
    withdrawn = await issuer.key("k1", "ES256")

    assert None not in before
    assert still is before[0]
    assert fetches == 1
    assert withdrawn is None
    assert server.key_fetches == 2


async def test_keys_outlive_a_while_without_the_issuer_and_no_longer(
    server: LoopbackIssuer, issuer: Issuer, clock: Clock
) -> None:
    """Its outage stops no client at once; but what it may have withdrawn is not believed for ever."""
    await issuer.key("k1", "ES256")
    server.is_down = True
    clock.now = LIFETIME_SECONDS - 1
    known = await issuer.key("k1", "ES256")
    clock.now = LIFETIME_SECONDS

    assert known is not None
    assert "answered HTTP 503" in await trouble(issuer)
    server.is_down = False
    assert await issuer.key("k1", "ES256") is not None


async def test_an_issuer_that_is_down_is_asked_only_so_often(
    server: LoopbackIssuer, issuer: Issuer, clock: Clock
) -> None:
    """Failed attempts count: clients that try again and again are not passed on to it."""
    server.is_down = True
    for _ in range(20):
        await trouble(issuer)
    asked = len(server.asked)
    clock.now = limits.WINDOW_SECONDS
    server.is_down = False

    assert await issuer.key("k1", "ES256") is not None
    assert server.asked[:asked] == [path for path in server.asked[:asked] if path != KEYS]
    assert asked == 3 * limits.MAX_FETCHES  # the three places where its metadata may be


async def test_who_asks_at_the_same_time_shares_an_answer(server: LoopbackIssuer, issuer: Issuer) -> None:
    """Many clients come at once after a start."""
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(issuer.key, f"k{number}", "ES256")

    assert server.key_fetches == 1


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration/realm", "/realm/.well-known/openid-configuration"])
async def test_metadata_is_found_where_openid_connect_has_it(server: LoopbackIssuer, issuer: Issuer, path: str) -> None:
    """RFC 8414, section 5, and OpenID Connect Discovery 1.0, section 4."""
    server.documents[path] = JSONResponse({"issuer": server.url, "jwks_uri": f"{server.url}/keys"})
    server.documents[METADATA] = PlainTextResponse("Not found", 404)

    assert await issuer.key("k1", "ES256") is not None


@pytest.mark.parametrize(
    ("path", "document", "says"),
    [
        (METADATA, {"issuer": "https://evil.example", "jwks_uri": KEYS}, "calls itself something else"),
        (METADATA, {"issuer": "SELF"}, "has no jwks_uri"),
        (METADATA, {"issuer": "SELF", "jwks_uri": "http://evil.example/keys"}, "is not https"),
        (METADATA, {"issuer": "SELF", "jwks_uri": "file:///etc/passwd"}, "is not https"),
        (METADATA, PlainTextResponse("<html>"), "answered no JSON object"),
        (KEYS, JSONResponse([]), "answered no JSON object"),
        (KEYS, PlainTextResponse("[" * 100_000), "answered no JSON object"),
        (KEYS, PlainTextResponse("x" * (MAX_BYTES + 1)), "answered more than 256 KiB"),
        (KEYS, RedirectResponse("/elsewhere"), "answered HTTP 307"),
        (KEYS, JSONResponse({"keys": "none"}), "publishes no key"),
        (KEYS, JSONResponse({"keys": [None, {"kid": 1, "kty": "EC"}]}), "publishes no key"),
    ],
)
async def test_an_answer_that_cannot_be_believed_is_one_sentence(
    server: LoopbackIssuer, issuer: Issuer, path: str, document: Any, says: str
) -> None:
    """What is not read: other issuers' metadata, addresses without TLS, redirects, endless or malformed answers."""
    if isinstance(document, dict):
        document = JSONResponse({name: server.url if value == "SELF" else value for name, value in document.items()})
    server.documents[path] = document

    assert says in await trouble(issuer)
    assert "/elsewhere" not in server.asked


async def test_an_issuer_that_cannot_be_reached_or_never_ends_is_said_to(
    server: LoopbackIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is waited for in all, and not from byte to byte: one that trickles must not hold clients."""

    async def trickle(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        message = await receive()
        while message["type"] != "http.disconnect":
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            with anyio.move_on_after(0.01):
                message = await receive()

    monkeypatch.setattr(limits, "FETCH_SECONDS", 0.5)
    server.documents[KEYS] = trickle

    with anyio.fail_after(20):
        assert "gave no answer within 0.5 s" in await trouble(issuer)
        assert "cannot be reached" in await trouble(Issuer("http://127.0.0.1:1"))


async def test_only_public_keys_for_signatures_are_taken(server: LoopbackIssuer, issuer: Issuer) -> None:
    """RFC 7517: neither shared secrets, nor keys for encryption, nor ones of an algorithm that is not accepted."""
    pair, curve = rsa.generate_private_key(65_537, 2_048), new_key()
    published = [
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"},
        jwk_of(pair, "sealing") | {"use": "enc"},
        jwk_of(pair, "wrapping", key_ops=["wrapKey"]),
        jwk_of(pair, "old", alg="RSA1_5"),
        jwk_of(pair, "any"),
        jwk_of(pair, "one", alg="PS256"),
        jwk_of(pair, "two") | {"kty": "EC"},
        jwk_of(curve, "two"),
    ]
    server.documents[KEYS] = JSONResponse({"keys": published})

    names = ["secret", "sealing", "wrapping", "old", "any", "one", "two"]
    algorithms = ["HS256", "RS256", "PS256", "ES256"]
    found = {(name, each) for name in names for each in algorithms if await issuer.key(name, each) is not None}

    assert found == {("any", "RS256"), ("any", "PS256"), ("one", "PS256"), ("two", "ES256")}
