"""Who may use the HTTP face: a good key, for its own tenant, until it is revoked; and where secrets never are."""

import logging
from pathlib import Path

import httpx
import pytest

from budget_server.authority import keys
from budget_server.authority.store import LedgerStore
from contract.harness import BOT, LEAF, ROOT
from contract.local import HttpAuthority

KEY = "X-Cycles-API-Key"


@pytest.fixture(autouse=True)
def budget(http: HttpAuthority) -> None:
    """Money that a request could move."""
    http.set_budget(ROOT, 100)


def unauthorized(response: httpx.Response, reason: str) -> None:
    """Assert a 401 that gives its reason, what to do about it, and nothing of the key or its tenant."""
    body = response.json()
    assert (response.status_code, body["error"]) == (401, "UNAUTHORIZED")
    assert body["message"].startswith(reason)
    assert "authority key create" in body["message"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert "x-cycles-tenant" not in response.headers
    assert "acme" not in response.text
    assert "canary" not in response.text


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "Missing API key"),
        ({KEY: ""}, "Missing API key"),
        ({KEY: "cyc_live_canary"}, "KEY_NOT_FOUND"),
        ({KEY: b"canary\xff"}, "KEY_NOT_FOUND"),
        ({KEY: "c" * 10_000}, "KEY_NOT_FOUND"),
        ({"Authorization": "Bearer cyc_live_canary"}, "Missing API key"),
    ],
)
def test_without_a_good_key_nothing_is_answered(http: HttpAuthority, headers: dict[str, str], reason: str) -> None:
    """Cycles v0, AUTHENTICATION: the key comes before everything, a bad body and an unknown id as well."""
    with httpx.Client(base_url=http.config.base_url, headers=headers) as stranger:
        for answer in (
            stranger.post("/v1/reservations", json=http.intent(1)),
            stranger.post("/v1/reservations", content=b"{"),
            stranger.post("/v1/reservations/none/commit", json={}),
            stranger.get("/v1/reservations/none"),
            stranger.get("/v1/balances"),
        ):
            unauthorized(answer, reason)

    assert http.sql("SELECT reserved FROM budgets") == [(0,)]


def test_a_secret_counts_to_its_last_character(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, AUTHENTICATION."""
    secret = http.config.api_key
    for other in (secret[:-1], secret + "a", secret.upper(), "x" + secret[1:]):
        unauthorized(wire.get("/v1/reservations", headers={KEY: other}), "KEY_NOT_FOUND")

    assert wire.get("/v1/reservations").status_code == 200


def test_a_key_that_another_process_revokes_is_refused_on_the_next_request(
    wire: httpx.Client, http: HttpAuthority
) -> None:
    """KEY_REVOKED, on a connection that has just been served with it."""
    first = wire.post("/v1/reservations", json=http.intent(1))
    other = LedgerStore(http.path, clock=http.clock)
    other.run(lambda ledger: keys.revoke(ledger.db, http.config.api_key[:14], ledger.now_ms))
    other.close()

    second = wire.post("/v1/reservations", json=http.intent(1))

    assert first.status_code == 200
    unauthorized(second, "KEY_REVOKED")
    streams = [each.extensions["network_stream"].get_extra_info("client_addr") for each in (first, second)]
    assert streams[0] == streams[1]
    assert http.sql("SELECT reserved FROM budgets") == [(1,)]


def test_a_key_is_good_until_it_expires(wire: httpx.Client, http: HttpAuthority) -> None:
    """KEY_EXPIRED, from the very moment."""
    expires_at_ms = http.clock.now_ms + 1_000
    _, secret = http.run(
        lambda ledger: keys.create(ledger.db, tenant="acme", name="", now_ms=ledger.now_ms, expires_at_ms=expires_at_ms)
    )
    http.clock.now_ms = expires_at_ms - 1
    assert wire.get("/v1/reservations", headers={KEY: secret}).status_code == 200

    http.clock.now_ms = expires_at_ms

    unauthorized(wire.get("/v1/reservations", headers={KEY: secret}), "KEY_EXPIRED")


def test_a_suspended_tenants_keys_are_refused_while_it_is_suspended(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, TENANT_SUSPENDED: a matter of keys, not of the ledger."""
    http.set_tenant(status="SUSPENDED")
    unauthorized(wire.get("/v1/reservations"), "TENANT_SUSPENDED")

    http.set_tenant(status="ACTIVE")

    assert wire.get("/v1/reservations").status_code == 200


def test_a_key_reaches_nothing_of_another_tenant(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, AUTHENTICATION: what is the other's can be neither settled nor seen, by id, by filter or by scope."""
    http.set_budget(LEAF, 50)
    globex = http.as_tenant("globex")
    globex.set_budget("tenant:globex", 100)
    held = wire.post("/v1/reservations", json=http.intent(10, BOT)).json()["reservation_id"]
    one = f"/v1/reservations/{held}"
    with httpx.Client(base_url=http.config.base_url, headers={KEY: globex.config.api_key}) as other:
        forbidden = [
            other.get(one),
            other.post(f"{one}/commit", json=http.outlay(1)),
            other.post(f"{one}/release", json={"idempotency_key": "r"}),
            other.post(f"{one}/extend", json={"idempotency_key": "x", "extend_by_ms": 1}),
            other.get("/v1/reservations", params={"tenant": "acme"}),
            other.get("/v1/balances", params={"tenant": "acme"}),
            other.post("/v1/reservations", json=http.intent(1)),
            other.post("/v1/decide", json=http.intent(1)),
        ]
        listed = other.get("/v1/reservations", params={"agent": "bot"}).json()
        balances = other.get("/v1/balances", params={"agent": "bot"}).json()
        own = other.get("/v1/balances", params={"tenant": "globex"}).json()

    assert [(each.status_code, each.json()["error"]) for each in forbidden] == [(403, "FORBIDDEN")] * 8
    assert [each.headers["x-cycles-tenant"] for each in forbidden] == ["globex"] * 8
    assert (listed["reservations"], balances["balances"]) == ([], [])
    assert [row["scope_path"] for row in own["balances"]] == ["tenant:globex"]
    assert http.sql("SELECT state FROM reservations") == [("ACTIVE",)]


def test_two_tenants_use_one_idempotency_key_each_for_itself(wire: httpx.Client, http: HttpAuthority) -> None:
    """Cycles v0, IDEMPOTENCY: keys are scoped to the effective tenant."""
    globex = http.as_tenant("globex")
    globex.set_budget("tenant:globex", 100)

    ours = wire.post("/v1/reservations", json=http.intent(1, key="k"))
    theirs = wire.post(
        "/v1/reservations",
        json=http.intent(2, {"tenant": "globex"}, key="k"),
        headers={KEY: globex.config.api_key},
    )

    assert (ours.status_code, theirs.status_code) == (200, 200)
    assert ours.json()["reservation_id"] != theirs.json()["reservation_id"]


def test_a_secret_is_kept_nowhere(wire: httpx.Client, http: HttpAuthority, caplog: pytest.LogCaptureFixture) -> None:
    """Only its hash and its start: not in the ledger's files, not in a log, not in an answer."""
    secret = http.config.api_key
    with caplog.at_level(logging.DEBUG):
        answers = [
            wire.post("/v1/reservations", json=http.intent(1)),
            wire.post("/v1/reservations", content=b"{"),
            wire.get("/v1/reservations"),
            wire.get("/v1/reservations", headers={KEY: secret + "x"}),
        ]
    http.run(lambda ledger: keys.revoke(ledger.db, secret[:14], ledger.now_ms))

    files = [path for path in Path(http.path.parent).rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not any(secret.encode() in path.read_bytes() for path in files)
    assert secret[:14].encode() in b"".join(path.read_bytes() for path in files)
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "budget"))]
    assert not any(secret in line for line in said)
    assert not any(secret in answer.text + str(answer.headers) for answer in answers)
