"""The ledger served over HTTP as people run it: a process, and the commands beside it that say who may use it."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from budget_server.authority.http import MAX_BODY_BYTES
from hosting import Environment, complaint_of, ledger_balance, run_program

PROGRAM = [sys.executable, "-m", "budget_server", "authority"]
ANNOUNCED = re.compile(r"Cycles authority on (http://127\.0\.0\.1:\d+) over (.*)")


class Served:
    """A process that serves the ledger."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        self.process = process
        announced = ANNOUNCED.fullmatch(process.stderr.readline().strip())
        assert announced is not None
        self.address, self.directory = announced.groups()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal and give the exit code, and what was still said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said


@contextmanager
def serving(environment: Environment) -> Iterator[Served]:
    """Serve on a free port; it does not outlive the test."""
    process = subprocess.Popen(
        [*PROGRAM, "--port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Served(process)
        finally:
            process.kill()


def authority(environment: Environment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``cycles-budget-mcp authority …`` to its end."""
    return run_program(environment, "authority", *arguments)


def complaint(environment: Environment, *arguments: str) -> str:
    """Run a command of it that must refuse, and give its one line."""
    return complaint_of(environment, "authority", *arguments)


def new_secret(environment: Environment, *arguments: str) -> str:
    """Create a key and give its secret: all that standard output has, so that a script can take it."""
    created = authority(environment, "key", "create", *arguments)
    assert created.returncode == 0, created.stderr
    (secret,) = created.stdout.splitlines()
    assert secret not in created.stderr
    return secret


def balances(served: Served, secret: str) -> httpx.Response:
    """Ask as a client in whatever language does."""
    headers, query = {"X-Cycles-API-Key": secret}, {"tenant": "local"}
    return httpx.get(f"{served.address}/v1/balances", headers=headers, params=query, timeout=10)


def test_keys_are_made_listed_and_revoked_beside_the_server(environment: Environment) -> None:
    """No restart: a key is good from its creation, and refused from its revocation."""
    with serving(environment) as served:
        assert httpx.get(f"{served.address}/health", timeout=10).json()["status"] == "ok"
        secret = new_secret(environment, "--name", "laptop")
        good = balances(served, secret)
        listed = authority(environment, "key", "list")
        revoked = authority(environment, "key", "revoke", secret[:14])
        refused = balances(served, secret)
        listed_after = authority(environment, "key", "list")

        _, said = served.end(signal.SIGTERM)

    assert good.status_code == 200
    assert good.json()["balances"][0]["allocated"] == {"unit": "USD_MICROCENTS", "amount": 100_000_000}
    assert all(word in listed.stdout for word in ("laptop", "local", secret[:14], "good"))
    assert revoked.returncode == 0
    assert (refused.status_code, refused.json()["message"][:11]) == (401, "KEY_REVOKED")
    assert "revoked" in listed_after.stdout
    assert secret not in listed.stdout + listed_after.stdout + revoked.stdout + said
    files = [path for path in Path(environment["BUDGET_DATA_DIR"]).rglob("*") if path.is_file()]
    assert files
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_a_key_speaks_for_the_tenant_that_it_was_made_for(environment: Environment) -> None:
    """Cycles v0, AUTHENTICATION."""
    secret = new_secret(environment, "--tenant", "globex", "--days", "1")

    with serving(environment) as served:
        response = balances(served, secret)

    assert (response.status_code, response.json()["error"]) == (403, "FORBIDDEN")
    assert response.headers["x-cycles-tenant"] == "globex"
    assert "good until" in " ".join(authority(environment, "key", "list").stdout.split())


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT)]
)
def test_the_server_ends_in_order_when_it_is_told_to(
    environment: Environment, number: signal.Signals, exit_code: int
) -> None:
    """What was answered is in the file, nothing is complained of, and the address is free again."""
    secret = new_secret(environment)
    with serving(environment) as served, ExitStack() as open_connection:
        client = open_connection.enter_context(
            httpx.Client(base_url=served.address, headers={"X-Cycles-API-Key": secret}, timeout=10)
        )
        held = client.post(
            "/v1/reservations",
            json={
                "idempotency_key": "k",
                "subject": {"tenant": "local"},
                "action": {"kind": "k", "name": "n"},
                "estimate": {"unit": "USD_MICROCENTS", "amount": 5},
            },
        )
        assert held.status_code == 200

        assert served.end(number) == (exit_code, "")

        with pytest.raises(httpx.TransportError):
            client.get("/health")
    assert not list(Path(served.directory).glob("*-wal"))
    assert ledger_balance(environment)["reserved"] == 5


def test_a_server_and_the_commands_say_nothing_of_what_they_serve(environment: Environment) -> None:
    """Neither keys nor bodies reach a log, whatever was sent."""
    secret = new_secret(environment)
    with serving(environment) as served:
        headers = {"X-Cycles-API-Key": secret, "Content-Type": "application/json"}
        for body in (b"{canary", b"canary" * MAX_BODY_BYTES):
            httpx.post(f"{served.address}/v1/events", content=body, headers=headers, timeout=10)
        httpx.get(f"{served.address}/canary", headers=headers, timeout=10)
        _raw(served, b"canary\r\n\r\n")

        _, said = served.end(signal.SIGTERM)

    assert "canary" not in said
    assert secret not in said


def _raw(served: Served, sent: bytes) -> bytes:
    """Send what is no HTTP at all."""
    url = httpx.URL(served.address)
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        connection.sendall(sent)
        return connection.recv(1_000)


def test_a_port_that_is_taken_is_said_in_one_sentence(environment: Environment) -> None:
    """And nothing was made: not even a ledger."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        line = complaint(environment, "--port", port)

    assert line.startswith(f"Cannot listen on 127.0.0.1:{port} (")
    assert line.endswith(".")
    assert "--port" in line
    assert not Path(environment["BUDGET_DATA_DIR"]).exists()


@pytest.mark.parametrize(
    "arguments", [("--port", "0"), ("key", "create"), ("key", "list"), ("key", "revoke", "k")], ids=" ".join
)
def test_a_ledger_that_lives_elsewhere_is_not_served(environment: Environment, arguments: tuple[str, ...]) -> None:
    """Two places to reach one budget by would be one too many."""
    environment |= {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "k", "CYCLES_TENANT": "acme"}

    assert "CYCLES_BASE_URL is set" in complaint(environment, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("key", "create", "--tenant", "A b"), "cannot be a tenant"),
        (("key", "create", "--tenant", "ACME"), "lower-case"),
        (("key", "revoke", "cyc_live_none"), "No API key is called"),
        (("--host", "192.0.2.1", "--port", "0"), "Cannot listen on 192.0.2.1:0"),
    ],
)
def test_a_wrong_argument_is_one_sentence(environment: Environment, arguments: tuple[str, ...], says: str) -> None:
    """Says what is wrong and what to do."""
    assert says in complaint(environment, *arguments)


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--port", "x"), ("key", "create", "--days", "0")])
def test_a_number_out_of_bounds_is_refused(environment: Environment, arguments: tuple[str, ...]) -> None:
    """Exit code 2, as every wrong option."""
    ended = authority(environment, *arguments)

    assert ended.returncode == 2
    assert arguments[-2] in ended.stderr
    assert not Path(environment["BUDGET_DATA_DIR"]).exists()


def test_two_processes_serve_one_ledger(environment: Environment) -> None:
    """They share the file as all processes of this server do."""
    secret = new_secret(environment)
    with serving(environment) as one, serving(environment) as two:
        answers: list[Callable[[], httpx.Response]] = [lambda: balances(one, secret), lambda: balances(two, secret)]

        assert [answer().status_code for answer in answers] == [200, 200]
