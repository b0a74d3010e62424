"""Access tokens of an OAuth issuer: who has a good one is a guest like any other, and nobody else is let in."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from budget_server.auth.issuer import MAX_FETCHES
from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from contract.face import Face
from hosting import ALLOCATED, Environment, call, complaint_of, ledger_balance, refused, run_program
from issuing import AUDIENCE, LoopbackIssuer, issuer_at, jwk_of, new_key
from networking import RawHost, Served, new_token, serving

CONNECTIONS = [("streamable-http", "auto"), ("streamable-http", "legacy"), ("sse", "legacy")]
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}
LET_IN = 400
"""A ping outside a session: past the gate, and refused by the protocol."""


@pytest.fixture
def issuer(face: Face) -> LoopbackIssuer:
    """An issuer on loopback."""
    return issuer_at(face)


def asked(served: Served, token: str = "", **headers: str) -> httpx.Response:
    """Ask as a client with this token would."""
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(served.post_url, json=PING, headers={**ACCEPT, **authorization, **headers}, timeout=20)


def unsigned(claims: dict[str, Any], **header: object) -> str:
    """Write a JWT by hand, without a signature."""
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)]
    return ".".join(parts)


def signed_with_public_key(issuer: LoopbackIssuer) -> str:
    """Use what everybody can read as a shared secret (RFC 8725, 3.1): the classic confusion of algorithms."""
    public = issuer.keys["rsa"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = unsigned(issuer.claims(), alg="HS256", kid="rsa")
    return f"{text}.{urlsafe_b64encode(hmac.digest(pem, text.encode(), 'sha256')).decode().rstrip('=')}"


def signed_by_another(issuer: LoopbackIssuer) -> str:
    """Sign with a key of one's own, under the name of one of the issuer's."""
    return jwt.encode(issuer.claims(), new_key(), algorithm="ES256", headers={"kid": "k1"})


Forge = Callable[[LoopbackIssuer], str]
BAD: dict[str, tuple[Forge, str]] = {
    "expired": (lambda i: i.token(exp=int(time.time()) - 120), "it has expired"),
    "not yet good": (lambda i: i.token(nbf=int(time.time()) + 120), "it is not good yet"),
    "of the future": (lambda i: i.token(iat=int(time.time()) + 120), "it is not good yet"),
    "for another server": (lambda i: i.token(aud="https://other.example/mcp"), "it is for another audience"),
    "for a part of this server's address": (lambda i: i.token(aud=AUDIENCE.rpartition("/")[0]), "another audience"),
    "of another issuer": (lambda i: i.token(iss="https://evil.example"), "it is of another issuer"),
    "of the issuer with a slash": (lambda i: i.token(iss=f"{i.url}/"), "it is of another issuer"),
    "signed by another key": (signed_by_another, "did not sign it"),
    "not signed": (lambda i: unsigned(i.claims(), alg="none", kid="k1") + ".", "not signed by a public key"),
    "signed with the public key": (signed_with_public_key, "not signed by a public key"),
    "of an unknown key": (lambda i: i.token(header={"kid": "k9"}), "has no key of the name"),
    "of another algorithm than its key": (
        lambda i: jwt.encode(i.claims(), i.keys["rsa"], algorithm="PS256", headers={"kid": "k1"}),
        "has no key of the name",
    ),
    "without a key": (lambda i: i.token(header={"kid": None}), "it names no key"),
    "of another kind": (lambda i: i.token(header={"typ": "logout+jwt"}), "another kind of JWT"),
    "bound to a key": (lambda i: i.token(cnf={"jkt": "x"}), "is bound to a key"),
    "without an end": (lambda i: i.token(exp=None), "it lacks one of the claims"),
    "without an audience": (lambda i: i.token(aud=None), "it lacks one of the claims"),
    "without a subject": (lambda i: i.token(sub=None), "it lacks one of the claims"),
    "cut off": (lambda i: i.token().rpartition(".")[0], "it is no JWT"),
    "opaque": (lambda _: "opaque-6f1e7a", "it is no JWT"),
    "endless": (lambda i: i.token(more="x" * 20_000), "it is too long"),
    "like one of ours": (lambda i: f"cbm_{i.token()}", ""),
}
"""What is refused, and what the log says of it."""


def test_only_a_token_that_the_issuer_signed_for_this_server_is_let_in(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """RFC 9068, section 4; RFC 8725: each is refused alike, the log says why, and no token stands in it."""
    issuer.keys["rsa"] = rsa.generate_private_key(65_537, 2_048)
    good = {key_id: issuer.token(key_id) for key_id in issuer.keys}
    good["many audiences"] = issuer.token(aud=["https://other.example", AUDIENCE])
    good["a clock behind"] = issuer.token(exp=int(time.time()) - 5)
    good["plain type"] = issuer.token(header={"typ": "JWT"})
    bad = {name: forge(issuer) for name, (forge, _) in BAD.items()}
    with serving(issuer.trusted_by(environment), "streamable-http") as served:
        none = asked(served)
        let_in = {name: asked(served, token).status_code for name, token in good.items()}
        refusals = {name: asked(served, token) for name, token in bad.items()}
        basic = asked(served, Authorization=f"Basic {good['k1']}")
        health = httpx.get(f"{served.address}/health", timeout=10).status_code
        _, said = served.end()

    assert set(let_in.values()) == {LET_IN}, let_in
    for name, answer in {**refusals, "none": none, "basic": basic}.items():
        assert (answer.status_code, answer.text) == (401, none.text), name
        assert answer.headers["www-authenticate"] == none.headers["www-authenticate"], name
    for name, (_, words) in BAD.items():
        assert words in said, name
    assert health == 200
    files = [path for path in Path(environment["BUDGET_DATA_DIR"]).rglob("*") if path.is_file()]
    for token in (*good.values(), *bad.values()):
        assert token not in said
        assert not any(part in said for part in token.split(".")[1:] if part)
        assert not any(token.encode() in path.read_bytes() for path in files)


def test_a_client_without_a_token_learns_whom_to_ask_for_one(environment: Environment, issuer: LoopbackIssuer) -> None:
    """RFC 9728: the refusal names the metadata, and that names the issuer, to the letter, to anyone."""
    settings = issuer.trusted_by(environment, scopes="budget:use", delegate_scope="budget:delegate")
    with serving(settings, "streamable-http") as served:
        refusal = asked(served)
        path = "/.well-known/oauth-protected-resource/mcp"
        metadata = httpx.get(served.address + path, headers={"Host": "budget.example"}, timeout=10).json()
        foreign = httpx.get(served.address + path, headers={"Host": "evil.example"}, timeout=10).status_code

    assert f'resource_metadata="https://budget.example{path}"' in refusal.headers["www-authenticate"]
    assert metadata["resource"] == AUDIENCE
    assert metadata["authorization_servers"] == [issuer.url]
    assert metadata["scopes_supported"] == ["budget:use", "budget:delegate"]
    assert foreign == 421


def test_a_token_without_a_scope_that_is_asked_for_is_forbidden(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """RFC 6750, section 3.1: 403, and the client knows what it lacks; our own tokens have no scopes, and need none."""
    scopes: dict[str, dict[str, Any]] = {
        "none": {},
        "half": {"scope": "budget:use"},
        "prefix": {"scope": "budget:user budget:everything"},
        "both": {"scope": "openid budget:everything budget:use"},
        "list": {"scp": ["budget:use", "budget:everything"]},
        "odd": {"scope": {"budget:use": 1, "budget:everything": 1}},
    }
    own = new_token(environment)
    with serving(issuer.trusted_by(environment, scopes="budget:use, budget:everything"), "streamable-http") as served:
        answers = {name: asked(served, issuer.token(**claims)) for name, claims in scopes.items()}
        ours = asked(served, own).status_code

    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {"none": 403, "half": 403, "prefix": 403, "both": LET_IN, "list": LET_IN, "odd": 403}
    assert 'error="insufficient_scope"' in answers["half"].headers["www-authenticate"]
    assert "budget:everything" in answers["half"].headers["www-authenticate"]
    assert ours == LET_IN


def test_new_keys_are_found_and_withdrawn_ones_forgotten(environment: Environment, issuer: LoopbackIssuer) -> None:
    """Rotation: an issuer signs with a key that this server has not seen; nobody restarts it."""
    before = issuer.token()
    with serving(issuer.trusted_by(environment), "streamable-http") as served:
        first = [asked(served, before).status_code for _ in range(3)]
        fetches = issuer.key_fetches
        issuer.keys = {"k2": new_key()}
        after = asked(served, issuer.token("k2")).status_code
        withdrawn = asked(served, before).status_code

    assert (first, fetches, after, withdrawn) == ([LET_IN] * 3, 1, LET_IN, 401)


def test_tokens_of_unknown_keys_do_not_turn_this_server_against_its_issuer(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """However many come, the issuer is asked a few times a minute, and good tokens are let in meanwhile."""
    good = issuer.token()
    with serving(issuer.trusted_by(environment), "streamable-http") as served:
        assert asked(served, good).status_code == LET_IN
        unknown = {asked(served, issuer.token(header={"kid": f"x{number}"})).status_code for number in range(20)}
        still = asked(served, good).status_code

    assert (unknown, still) == ({401}, LET_IN)
    assert issuer.key_fetches == MAX_FETCHES


def test_a_server_starts_while_its_issuer_is_down_and_says_so(environment: Environment, issuer: LoopbackIssuer) -> None:
    """503, not 401: a client must not throw a token away that may be good. What needs no issuer works."""
    issuer.is_down = True
    own, good = new_token(environment), issuer.token()
    with serving(issuer.trusted_by(environment), "streamable-http") as served:
        down = asked(served, good)
        ours, garbage, none = (asked(served, token).status_code for token in (own, "garbage", ""))
        issuer.is_down = False
        up = asked(served, good).status_code
        issuer.is_down = True
        known = asked(served, good).status_code
        _, said = served.end()

    assert (down.status_code, ours, garbage, none, up, known) == (503, LET_IN, 401, 401, LET_IN, LET_IN)
    assert "try again" in down.text
    assert f"The OAuth issuer {issuer.url} answered HTTP 503" in said
    assert good not in said + down.text


@pytest.mark.anyio
@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_its_claims_decide_whose_budget_and_settings_how_much(
    environment: Environment, issuer: LoopbackIssuer, transport: str, mode: str
) -> None:
    """README, Over the network: as with a token of ours, on every transport and generation."""
    for tenant in ("acme", "globex"):
        assert run_program(environment, "budget", "allocate", "3", "--scope", f"tenant:{tenant}").returncode == 0
    settings = issuer.trusted_by(
        environment, subject="tenant=org, agent=client_id", ceiling_usd="0.02", delegate_scope="budget:delegate"
    )
    acme = issuer.token(org="acme", client_id="bot", scope="budget:delegate")
    globex = issuer.token(org="globex", client_id="bot")
    async with ScriptedClaude([Turn(text="Done.")]) as endpoint:
        settings |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(settings, transport) as served, anyio.fail_after(60):
            async with served.host(mode, acme) as one, served.host(mode, globex) as two:
                held = await call(one, "reserve_budget", usd="0.50")
                sideways = await refused(one, "reserve_budget", usd="0.50", subject={"agent": "other"})
                above = await refused(one, "delegate_to_claude", task="Do it.", budget_usd="0.021")
                done = await call(one, "delegate_to_claude", task="Do it.")
                foreign = await refused(two, "commit_usage", reservation_id=held["reservation_id"], usd="0")
                unseen = await refused(two, "delegation_status", delegation_id=done["delegation_id"])
                listed = {tool.name for tool in (await two.list_tools()).tools}
                hidden = await refused(two, "delegate_to_claude", task="Do it.")
            sent = len(endpoint.message_requests)

    assert held["affected_scopes"][-1] == "tenant:acme/agent:bot"
    assert "not yours to choose" in sideways
    assert "$0.02" in above
    assert (done["status"], sent) == ("completed", 1)
    assert foreign.startswith("FORBIDDEN")
    assert unseen.startswith("NOT_FOUND")
    assert "delegate_to_claude" not in listed
    assert {"reserve_budget", "delegation_status"} < listed
    assert "There is no tool 'delegate_to_claude'" in hidden
    assert ledger_balance(environment, "acme")["spent"] == done["spent"]["amount"] > 0
    assert ledger_balance(environment, "globex")["remaining"] == 3 * ALLOCATED
    assert ledger_balance(environment)["remaining"] == ALLOCATED


@pytest.mark.anyio
async def test_without_a_claim_for_it_everyone_spends_as_the_servers_own_tenant(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """README, Settings, BUDGET_OAUTH_SUBJECT: what a token says of tenants is then not looked at."""
    token = issuer.token(tenant="acme", org="acme")
    with serving(issuer.trusted_by(environment), "streamable-http") as served, anyio.fail_after(60):
        async with served.host(token=token) as client:
            held = await call(client, "reserve_budget", usd="0.50", subject={"agent": "bot"})

    assert held["affected_scopes"] == ["tenant:local", "tenant:local/agent:bot"]


def test_a_claim_that_names_nobody_lets_nobody_in(environment: Environment, issuer: LoopbackIssuer) -> None:
    """A level that a setting wants from a claim is never left open, or put into other words."""
    good = "acme"
    names = [
        None,
        "",
        "A",
        "a b",
        "a/b",
        "a:b",
        "acme/agent:x",
        "a" * 129,
        "acm\u00e9",
        7,
        True,
        [good],
        {good: 1},
        good,
    ]
    with serving(issuer.trusted_by(environment, subject="tenant=org"), "streamable-http") as served:
        statuses = [asked(served, issuer.token(org=name)).status_code for name in names]
        _, said = served.end()

    assert statuses == [401] * (len(names) - 1) + [LET_IN]
    assert said.count("its claim 'org' must name the tenant (BUDGET_OAUTH_SUBJECT)") == 1


def test_a_tenant_that_the_cycles_server_would_refuse_is_not_let_in(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """Its key speaks for one tenant: whoever is of another could only reach that one's reservations."""
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "key-1", "CYCLES_TENANT": "acme"}
    with serving(issuer.trusted_by(environment, subject="tenant=org"), "streamable-http") as served:
        statuses = [asked(served, issuer.token(org=org)).status_code for org in ("acme", "globex")]
        _, said = served.end()

    assert statuses == [LET_IN, 401]
    assert "another tenant than CYCLES_API_KEY speaks for" in said


def test_a_session_belongs_to_who_opened_it_as_whom_they_spend(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """MCP, security: a token that was renewed goes on; another user, client or tenant, or one of ours, does not."""
    mine: dict[str, Any] = {"org": "acme", "sub": "u-1", "client_id": "c-1"}
    others: list[dict[str, Any]] = [{"sub": "u-2"}, {"client_id": "c-2"}, {"org": "globex"}]
    own = new_token(environment, "--tenant", "acme")
    with serving(issuer.trusted_by(environment, subject="tenant=org"), "streamable-http") as served:
        host = RawHost(served.url, issuer.token(**mine))
        session = {name: value for name, value in host._headers.items() if name.startswith("M")}
        renewed = asked(served, issuer.token(**mine, jti="2", iat=int(time.time()) - 1), **session).status_code
        stolen = [asked(served, issuer.token(**{**mine, **other}), **session).status_code for other in others]
        stolen.append(asked(served, own, **session).status_code)
        host.close()

    assert renewed == 200
    assert stolen == [404] * 4


def test_with_an_issuer_other_machines_may_be_let_in(environment: Environment, issuer: LoopbackIssuer) -> None:
    """README, Over the network: then everyone is asked who they are, before any token of ours was made."""
    with serving(issuer.trusted_by(environment), "streamable-http", "--host", "0.0.0.0") as served:  # noqa: S104 - on purpose
        url = f"http://127.0.0.1:{served.address.rpartition(':')[2]}/mcp"
        headers = [{}, {"Authorization": f"Bearer {issuer.token()}", "Host": "budget.example"}]
        answers = [httpx.post(url, json=PING, headers={**ACCEPT, **each}, timeout=10) for each in headers]

    assert [answer.status_code for answer in answers] == [401, LET_IN]


ISSUER = {"BUDGET_OAUTH_ISSUER": "https://issuer.example", "BUDGET_OAUTH_AUDIENCE": AUDIENCE}


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"BUDGET_OAUTH_ISSUER": "https://issuer.example"}, "BUDGET_OAUTH_AUDIENCE is not set"),
        ({"BUDGET_OAUTH_AUDIENCE": AUDIENCE}, "BUDGET_OAUTH_ISSUER is not set"),
        ({"BUDGET_OAUTH_SCOPES": "budget:use"}, "BUDGET_OAUTH_ISSUER is not set"),
        ({**ISSUER, "BUDGET_OAUTH_ISSUER": "http://issuer.example"}, "BUDGET_OAUTH_ISSUER is wrong: must be an https"),
        ({**ISSUER, "BUDGET_OAUTH_ISSUER": "issuer.example"}, "BUDGET_OAUTH_ISSUER is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_ISSUER": "https://u:secret@issuer.example"}, "BUDGET_OAUTH_ISSUER is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_ISSUER": "https://issuer.example?a=b"}, "BUDGET_OAUTH_ISSUER is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_AUDIENCE": "api://budget"}, "BUDGET_OAUTH_AUDIENCE is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_JWKS_URL": "http://10.0.0.1/keys"}, "BUDGET_OAUTH_JWKS_URL is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_SUBJECT": "org_id"}, "BUDGET_OAUTH_SUBJECT is wrong: must be LEVEL=CLAIM"),
        ({**ISSUER, "BUDGET_OAUTH_SUBJECT": "tenants=org_id"}, "BUDGET_OAUTH_SUBJECT is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_SUBJECT": "tenant=a,tenant=b"}, "BUDGET_OAUTH_SUBJECT is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_SCOPES": 'budget"use'}, "BUDGET_OAUTH_SCOPES is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_DELEGATE_SCOPE": "a b"}, "BUDGET_OAUTH_DELEGATE_SCOPE is wrong"),
        ({**ISSUER, "BUDGET_OAUTH_CEILING_USD": "much"}, "BUDGET_OAUTH_CEILING_USD is wrong"),
    ],
)
def test_a_wrong_setting_is_one_sentence(environment: Environment, variables: dict[str, str], says: str) -> None:
    """A start with half of the settings would let in whom nobody meant to; the value is not shown."""
    complaint = complaint_of(environment | variables, "serve", "--transport", "streamable-http", "--port", "0")

    assert says in complaint
    assert "secret" not in complaint


def test_doctor_says_whose_tokens_are_taken_and_whether_there_are_keys(
    environment: Environment, issuer: LoopbackIssuer
) -> None:
    """README, doctor: nobody is asked without --online; one that is down is a problem."""
    settings = issuer.trusted_by(environment)
    offline = run_program(settings, "doctor")
    asked_offline = list(issuer.asked)
    online = run_program(settings, "doctor", "--online")
    issuer.is_down = True
    down = run_program(settings, "doctor", "--online")

    assert f"Access tokens of {issuer.url} for {AUDIENCE} are taken" in offline.stdout
    assert "all as the tenant local" in offline.stdout
    assert asked_offline == []
    assert "publishes 1 keys" in online.stdout
    assert (online.returncode, down.returncode) == (0, 1)
    assert f"The OAuth issuer {issuer.url} answered HTTP 503" in down.stdout


def test_its_keys_may_be_named_where_there_is_no_metadata(environment: Environment, issuer: LoopbackIssuer) -> None:
    """README, Settings, BUDGET_OAUTH_JWKS_URL: then nothing else of the issuer is asked."""
    settings = issuer.trusted_by(environment, jwks_url=f"{issuer.url}/keys")
    with serving(settings, "streamable-http") as served:
        status = asked(served, issuer.token()).status_code

    assert status == LET_IN
    assert issuer.asked == ["/realm/keys"]
    assert jwk_of(issuer.keys["k1"], "k1")["kty"] == "EC"
