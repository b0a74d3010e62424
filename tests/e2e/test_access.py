"""Tokens: who may use a server over the network, and that what they may not they cannot."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.types import METHOD_NOT_FOUND, RequestParamsMeta

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from budget_server.mcp_server.server import TOOLS
from budget_tools.delegation.records import PARENT_META
from contract.face import Face
from hosting import ALLOCATED, Environment, call, complaint_of, ledger_balance, refused, run_program, text_of
from issuing import issuer_at
from networking import RawHost, Served, lost_host, new_token, serving

CONNECTIONS = [("streamable-http", "auto"), ("streamable-http", "legacy"), ("sse", "legacy")]
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def allocate(environment: Environment, tenant: str, usd: str) -> None:
    """Give another tenant a budget, as a person does."""
    done = run_program(environment, "budget", "allocate", usd, "--scope", f"tenant:{tenant}")
    assert done.returncode == 0, done.stderr


def asked(served: Served, **headers: str) -> httpx.Response:
    """Ask as a client with these headers would."""
    return httpx.post(served.post_url, json=PING, headers={**ACCEPT, **headers}, timeout=10)


def bearer(token: str) -> dict[str, str]:
    """Give the header of a token."""
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("transport", ["sse", "streamable-http"])
def test_who_has_no_good_token_gets_401_and_nothing_else(environment: Environment, transport: str) -> None:
    """RFC 6750: missing, wrong, revoked; at once, beside a running server, and without a word of why."""
    with serving(environment, transport) as served:
        open_to_all = asked(served).status_code
        wrong_while_open = asked(served, **bearer("cbm_wrong"))
        good, revoked = new_token(environment, name="laptop"), new_token(environment, "--expires", "90d")
        before = asked(served, **bearer(revoked)).status_code
        assert run_program(environment, "token", "revoke", revoked[:10]).returncode == 0
        refusals = [
            wrong_while_open,
            asked(served),
            asked(served, **bearer("cbm_wrong")),
            asked(served, **bearer(revoked)),
            asked(served, Authorization=f"Basic {good}"),
            httpx.get(served.url, headers=ACCEPT, timeout=10),
        ]
        let_in = asked(served, **bearer(good)).status_code
        health = [httpx.get(f"{served.address}{path}", timeout=10).status_code for path in ("/health", "/ready")]
        listed = run_program(environment, "token", "list").stdout
        _, said = served.end()

    assert {open_to_all, before, let_in} == {400}  # ping outside a session: past the gate, refused by the protocol
    assert {answer.status_code for answer in refusals} == {401}
    assert {answer.text for answer in refusals} == {refusals[0].text}
    assert all(answer.headers["www-authenticate"].startswith("Bearer ") for answer in refusals)
    assert health == [200, 200]
    assert all(word in listed for word in ("laptop", good[:10], "revoked", "good"))
    for secret in (good, revoked):
        assert secret not in listed + said
        files = [path for path in Path(environment["BUDGET_DATA_DIR"]).rglob("*") if path.is_file()]
        assert not any(secret.encode() in path.read_bytes() for path in files)


def test_an_expired_token_is_refused(environment: Environment) -> None:
    """Its time is looked at with every request."""
    from budget_server.auth.schema import ACCESS_KIND
    from budget_server.auth.tokens import ACCESS_FILE, Grant, Tokens
    from budget_server.database.file import DurableFile, wall_ms

    path = Path(environment["BUDGET_DATA_DIR"]) / ACCESS_FILE
    file = DurableFile(path, ACCESS_KIND, Tokens, clock=lambda: wall_ms() - 7_200_000)
    grant = Grant(levels={"tenant": "local"})
    _, old = file.run(lambda tokens: tokens.create(grant, name="old", lifetime_ms=3_600_000))
    _, young = file.run(lambda tokens: tokens.create(grant, name="young", lifetime_ms=3 * 3_600_000))
    file.close()

    with serving(environment, "streamable-http") as served:
        statuses = [asked(served, **bearer(secret)).status_code for secret in (old, young)]

    assert statuses == [401, 400]
    assert "expired" in run_program(environment, "token", "list").stdout


def test_a_server_may_ask_for_a_token_before_there_is_one(environment: Environment) -> None:
    """--require-token: nobody gets in until somebody may."""
    with serving(environment, "streamable-http", "--require-token") as served:
        before = asked(served).status_code
        secret = new_token(environment)
        after = asked(served, **bearer(secret)).status_code

    assert (before, after) == (401, 400)


def test_revoking_the_last_token_opens_nothing(environment: Environment) -> None:
    """A server that has once asked goes on asking, also after a restart."""
    secret = new_token(environment)
    run_program(environment, "token", "revoke", secret[:10])

    with serving(environment, "streamable-http") as served:
        assert asked(served).status_code == 401


def test_with_a_token_other_machines_may_be_let_in(environment: Environment) -> None:
    """README, Over the network: the address is then listened on, with a warning, and tokens are asked for."""
    secret = new_token(environment)
    with serving(environment, "streamable-http", "--host", "0.0.0.0") as served:  # noqa: S104 - on purpose
        url = f"http://127.0.0.1:{served.address.rpartition(':')[2]}/mcp"
        answers = [httpx.post(url, json=PING, headers={**ACCEPT, **who}, timeout=10) for who in ({}, bearer(secret))]

    assert [answer.status_code for answer in answers] == [401, 400]


@pytest.mark.anyio
@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_a_token_decides_whose_budget_which_tools_and_how_much(
    environment: Environment, transport: str, mode: str
) -> None:
    """Cycles v0, Subject: a call goes further down, never sideways or up; on every transport and generation."""
    own = ("--tenant", "acme", "--app", "shop", "--ceiling", "0.02")
    allocate(environment, "acme", "3")
    secret = new_token(environment, *own, "--tools", "reserve_budget, delegate_to_claude,estimate_cost")
    answers = [Turn(text="Done.")] * 2
    async with ScriptedClaude(answers) as endpoint:
        environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(environment, transport) as served, anyio.fail_after(60):
            async with served.host(mode, secret) as client:
                listed = [tool.name for tool in (await client.list_tools()).tools]
                hidden = await refused(client, "list_delegations")
                unknown = await refused(client, "no_such_tool")
                estimate = await call(client, "estimate_cost", input_tokens=1)
                held = await call(client, "reserve_budget", usd="0.50", subject={"agent": "bot"})
                same = await call(client, "reserve_budget", usd="0.50", subject={"app": "shop"})
                sideways = await refused(client, "reserve_budget", usd="0.50", subject={"app": "other"})
                between = await refused(client, "reserve_budget", usd="0.50", subject={"workspace": "w"})
                above = await refused(client, "delegate_to_claude", task="Do it.", budget_usd="0.021")
                done = await call(client, "delegate_to_claude", task="Do it.")
            _, said = served.end()

    assert listed == ["estimate_cost", "reserve_budget", "delegate_to_claude"]
    assert "There is no tool 'list_delegations'" in hidden
    assert hidden.replace("list_delegations", "no_such_tool") == unknown
    assert estimate["remaining"]["usd"] == "3.00"
    assert held["affected_scopes"][-1] == "tenant:acme/app:shop/agent:bot"
    assert same["decision"] == "ALLOW"
    assert all("not yours to choose" in sentence for sentence in (sideways, between))
    assert "$0.02" in above
    assert done["status"] == "completed"
    assert done["turns"][0]["reserved"]["amount"] <= 2_000_000
    assert ledger_balance(environment)["remaining"] == ALLOCATED
    balance = ledger_balance(environment, "acme")
    assert (balance["reserved"], balance["spent"]) == (100_000_000, done["spent"]["amount"])
    assert secret not in said


@pytest.mark.anyio
@pytest.mark.usefixtures("workshop")
async def test_resuming_lifts_no_delegation_over_the_ceiling(environment: Environment) -> None:
    """--ceiling: one that was begun without a limit goes on under the limit of whoever resumes it."""
    free, capped = new_token(environment), new_token(environment, "--ceiling", "0.20")
    async with ScriptedClaude([Turn(text="So far."), Turn(text="All of it.")]) as endpoint:
        environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(environment, "streamable-http") as served, anyio.fail_after(60):
            async with served.host(token=free) as one, served.host(token=capped) as two:
                task = {"task": "Do it.", "tools": ["workshop__stock"], "max_output_tokens": 24_000}
                stopped = await call(one, "delegate_to_claude", **task, max_turns=1)
                resumed = await call(two, "delegate_to_claude", resume=stopped["delegation_id"], max_turns=3)

    assert (stopped["status"], resumed["status"]) == ("max_turns", "completed")
    assert stopped["turns"][0]["reserved"]["amount"] > 20_000_000
    assert resumed["turns"][1]["reserved"]["amount"] + stopped["spent"]["amount"] <= 20_000_000


@pytest.mark.anyio
@pytest.mark.usefixtures("workshop")
async def test_resuming_spends_as_nobody_whom_a_token_could_not_name(environment: Environment) -> None:
    """Cycles v0, Subject: a delegation goes on as whoever began it, so that must be the token's to spend as."""
    tokens = [new_token(environment, *who) for who in (("--agent", "one"), ("--agent", "two"), ())]
    async with ScriptedClaude([Turn(text="So far."), Turn(text="All of it.")]) as endpoint:
        environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(environment, "streamable-http") as served, anyio.fail_after(60):
            one, two, whole = (served.host(token=token) for token in tokens)
            async with one as first, two as second, whole as third:
                stopped = await call(first, "delegate_to_claude", task="Do it.", tools=["workshop__stock"], max_turns=1)
                again = {"resume": stopped["delegation_id"], "max_turns": 3}
                sideways = await refused(second, "delegate_to_claude", **again)
                sent = len(endpoint.message_requests)
                resumed = await call(third, "delegate_to_claude", **again)

    assert "tenant:local/agent:one" in sideways
    assert sent == 1
    assert resumed["status"] == "completed"


@pytest.mark.anyio
async def test_what_a_killed_process_left_in_flight_is_charged_to_the_tenant_whose_it_was(
    environment: Environment,
) -> None:
    """Crash: the next start settles for every tenant that the process worked for."""
    allocate(environment, "acme", "1")
    secret = new_token(environment, "--tenant", "acme")
    async with ScriptedClaude([Turn(text="never heard", hold=anyio.Event())]) as endpoint:
        environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(environment, "streamable-http") as served, lost_host(served, "auto", secret), anyio.fail_after(60):
            await endpoint.wait_for_requests(1)
            bound = (await anyio.to_thread.run_sync(ledger_balance, environment, "acme"))["reserved"]
            served.process.kill()
            await anyio.to_thread.run_sync(served.process.wait)
        with serving(environment, "streamable-http") as served, anyio.fail_after(60):
            async with served.host(token=secret) as client:
                (summary,) = (await call(client, "list_delegations"))["delegations"]
                status = await call(
                    client, "delegation_status", delegation_id=summary["delegation_id"], wait_seconds=30
                )

    assert status["status"] != "running"
    balance = ledger_balance(environment, "acme")
    assert (balance["reserved"], balance["spent"]) == (0, bound)
    assert bound > 0
    assert ledger_balance(environment)["spent"] == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("transport", "mode"), CONNECTIONS)
async def test_a_token_reads_the_budgets_of_its_own_tenant(environment: Environment, transport: str, mode: str) -> None:
    """README, Over the network: a client sees its own tenant's balances, on every transport."""
    allocate(environment, "acme", "2")
    secret = new_token(environment, "--tenant", "acme")
    with serving(environment, transport) as served, anyio.fail_after(60):
        async with served.host(mode, secret) as client:
            read = (await client.read_resource("budget://balances")).model_dump_json()

    assert "tenant:acme" in read
    assert "tenant:local" not in read


def test_a_token_opens_nothing_that_looks_past_its_own_tenant(environment: Environment) -> None:
    """What is not known to keep to a guest's view of the process is refused, whoever adds it."""
    secret = new_token(environment, "--tenant", "acme")
    with serving(environment, "streamable-http") as served:
        host = RawHost(served.url, secret)
        answer = host.ask("resources/subscribe", uri="budget://balances")
        host.close()

    assert f'"code":{METHOD_NOT_FOUND}' in answer.replace(" ", "")


@pytest.mark.anyio
async def test_a_session_belongs_to_the_token_that_opened_it(environment: Environment) -> None:
    """MCP, security: an id that was overheard is no way into somebody else's session."""
    mine, theirs = new_token(environment), new_token(environment)
    with serving(environment, "streamable-http") as served, anyio.fail_after(60):
        async with served.host("legacy", mine) as client:
            await call(client, "estimate_cost", input_tokens=1)
        host = RawHost(served.url, mine)
        session = {name: value for name, value in host._headers.items() if name.startswith("M")}
        stolen = asked(served, **session, **bearer(theirs))
        own = asked(served, **session, **bearer(mine))
        host.close()

    assert (stolen.status_code, own.status_code) == (404, 200)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--name", "x", "--tools", "reserve_budget,spend"), "There is no tool 'spend'"),
        (("create", "--name", "x", "--tenant", "A b"), "--tenant must be"),
        (("create", "--name", "x", "--agent", "BOT"), "--agent must be"),
        (("create", "--name", "x", "--ceiling", "much"), "--ceiling must be"),
        (("create", "--name", "x", "--expires", "soon"), "--expires 'soon' is no time"),
        (("revoke", "cbm_none"), "No token is called"),
    ],
)
def test_a_wrong_argument_is_one_sentence(environment: Environment, arguments: tuple[str, ...], says: str) -> None:
    """Says what is wrong and what to do; no token is made."""
    assert says in complaint_of(environment, "token", *arguments)


def test_no_token_is_made_for_a_tenant_that_the_cycles_server_would_refuse(environment: Environment) -> None:
    """Its key speaks for one tenant: a token of another could only reach that one's reservations."""
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "key-1", "CYCLES_TENANT": "acme"}

    assert "leave --tenant out" in complaint_of(environment, "token", "create", "--name", "x", "--tenant", "globex")


class House:
    """One server, and a client of each of two tenants."""

    def __init__(self, served: Served, secrets: dict[str, str]) -> None:
        self.served = served
        self.hosts = {tenant: RawHost(served.url, secret) for tenant, secret in secrets.items()}
        self.held: dict[str, dict[str, int]] = {tenant: {} for tenant in secrets}
        self.delegations: dict[str, set[str]] = {tenant: set() for tenant in secrets}

    def remaining(self, tenant: str) -> int:
        """Give what a tenant sees of its budget."""
        is_refused, estimate = self.hosts[tenant].call("estimate_cost", input_tokens=1)
        assert not is_refused
        return int(estimate["remaining"]["amount"])


@pytest.fixture(scope="module", params=["tokens of ours", "tokens of an issuer"])
def house(tmp_path_factory: pytest.TempPathFactory, face: Face, request: pytest.FixtureRequest) -> Iterator[House]:
    """A house that all examples share: what earlier ones left in it must not be reachable either."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**own, "BUDGET_DATA_DIR": str(tmp_path_factory.mktemp("house")), "ANTHROPIC_API_KEY": "test-key"}
    tenants = ("acme", "globex")
    for tenant in tenants:
        allocate(environment, tenant, "1000")
    if request.param == "tokens of ours":
        secrets = {tenant: new_token(environment, "--tenant", tenant) for tenant in tenants}
    else:
        issuer = issuer_at(face)
        environment = issuer.trusted_by(environment, subject="tenant=org")
        secrets = {tenant: issuer.token(org=tenant, exp=int(time.time()) + 3_600) for tenant in tenants}

    def script(_: dict[str, Any], __: int) -> Turn:
        return Turn(text="Cut short.", stop_reason="max_tokens")

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(ScriptedClaude(script)) as endpoint:
        environment["ANTHROPIC_BASE_URL"] = endpoint.base_url
        with serving(environment, "streamable-http") as served:
            house = House(served, secrets)
            yield house
            for host in house.hosts.values():
                host.close()


TENANTS = st.sampled_from(["acme", "globex"])
STEPS = st.one_of(
    st.tuples(st.just("reserve"), TENANTS, st.integers(1, 1_000)),
    st.tuples(st.sampled_from(["commit", "release", "extend"]), TENANTS, st.integers(0, 1_000)),
    st.tuples(st.just("record"), TENANTS, st.integers(1, 1_000)),
    st.tuples(st.just("delegate"), TENANTS, st.integers(0, 1)),
    st.tuples(st.just("resume"), TENANTS, st.integers(0, 1_000)),
    st.tuples(st.just("cancel"), TENANTS, st.integers(0, 1_000)),
    st.tuples(st.just("list"), TENANTS, st.just(0)),
)


def touch(host: RawHost, action: str, reservation_id: str) -> tuple[bool, dict[str, Any]]:
    """Settle a reservation, give it back, or hold it longer."""
    if action == "commit":
        return host.call("commit_usage", reservation_id=reservation_id, usd="0")
    if action == "release":
        return host.call("release_budget", reservation_id=reservation_id)
    return host.call("extend_reservation", reservation_id=reservation_id, seconds=1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=12), data=st.data())
def test_no_tenant_sees_or_moves_anything_of_another(
    house: House, steps: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """Cycles v0, AUTHENTICATION: over all tools, by id, by key and by subject, each tenant is alone in the house."""
    keys = st.sampled_from(["", "k-1", "k-2"])
    for action, tenant, number in steps:
        other = "globex" if tenant == "acme" else "acme"
        host = house.hosts[tenant]
        others_before = house.remaining(other)
        if action == "reserve":
            is_refused, held = host.call("reserve_budget", usd=f"0.0{number:04d}", ttl_seconds=86_400)
            assert not is_refused
            assert all(scope.startswith(f"tenant:{tenant}") for scope in held["affected_scopes"])
            house.held[tenant][held["reservation_id"]] = number
        elif action == "record":
            is_refused, _ = host.call("record_usage", usd=f"0.0{number:04d}")
            assert not is_refused
        elif action in ("commit", "release", "extend"):
            for whose in (other, tenant):
                if not (known := sorted(house.held[whose])):
                    continue
                chosen = known[number % len(known)]
                is_refused, answer = touch(host, action, chosen)
                if whose == other:
                    assert (is_refused, answer["code"]) == (True, "FORBIDDEN")
                elif action != "extend":
                    assert not is_refused, answer
                    del house.held[whose][chosen]
        elif action == "delegate":
            key = data.draw(keys)
            is_refused, done = host.call("delegate_to_claude", task="Do it.", idempotency_key=key, max_turns=1)
            assert not is_refused, done
            assert done["delegation_id"] not in house.delegations[other]
            house.delegations[tenant].add(done["delegation_id"])
        elif action in ("resume", "cancel") and (theirs := sorted(house.delegations[other])):
            chosen = theirs[number % len(theirs)]
            if action == "resume":
                is_refused, answer = host.call("delegate_to_claude", resume=chosen, max_turns=100)
            else:
                is_refused, answer = host.call("delegation_status", delegation_id=chosen, cancel=True)
            assert (is_refused, answer["code"]) == (True, "NOT_FOUND")
            assert "Do it." not in json.dumps(answer)
        elif action == "list":
            is_refused, answer = host.call("list_delegations", limit=100)
            seen = {each["delegation_id"] for each in answer["delegations"]}
            assert not is_refused
            assert seen <= house.delegations[tenant]
            _, checked = host.call("check_budget")
            _, reservations = host.call("list_reservations", limit=200)
            shown = json.dumps([checked, reservations, host.ask("resources/read", uri="budget://balances")])
            for of_other in (*house.held[other], *house.delegations[other]):
                for kind in ("reservations", "delegations"):
                    shown += host.ask("resources/read", uri=f"budget://{kind}/{of_other}")
            assert f"tenant:{tenant}" in shown
            assert f"tenant:{other}" not in shown
            assert "Do it." not in shown
        assert house.remaining(other) == others_before


@pytest.mark.anyio
async def test_a_delegation_cannot_be_hung_under_another_tenants(environment: Environment) -> None:
    """A caller says in _meta what it is nested in: it must not draw on the limit of a stranger's delegation."""
    for tenant in ("acme", "globex"):
        allocate(environment, tenant, "1")
    acme, globex = new_token(environment, "--tenant", "acme"), new_token(environment, "--tenant", "globex")
    async with ScriptedClaude([Turn(text="One."), Turn(text="Two.")]) as endpoint:
        environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
        with serving(environment, "streamable-http") as served, anyio.fail_after(60):
            async with served.host(token=acme) as one, served.host(token=globex) as two:
                above = await call(one, "delegate_to_claude", task="Do it.")
                hung = await two.call_tool("delegate_to_claude", {"task": "Do it."}, meta=_under(above))
                status = await call(one, "delegation_status", delegation_id=above["delegation_id"])

            sent = len(endpoint.message_requests)

    assert hung.is_error
    assert "is another tenant's" in text_of(hung)
    assert sent == 1
    assert "spent_by_nested" not in status
    assert status["spent"] == above["spent"]


def _under(above: dict[str, Any]) -> RequestParamsMeta:
    return cast("RequestParamsMeta", {PARENT_META: above["delegation_id"]})


def test_every_tool_is_one_of_the_property() -> None:
    """A tool that is added must be added to the property above as well."""
    source = Path(__file__).read_text(encoding="utf-8")

    for tool in TOOLS:
        assert re.search(rf'host\.call\("{tool.name}"|\[tenant\]\.call\("{tool.name}"', source), tool.name
