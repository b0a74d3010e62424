"""How the server's process ends: cleanly, soon, and with what was in flight settled."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from budget_server.transports.stdio import MAX_LINE_BYTES
from hosting import Environment, in_time, ledger_balance

pytestmark = pytest.mark.anyio

HOST_PATIENCE_SECONDS = 2.0
"""A host closes standard input, waits so long, and then kills (MCP, stdio shutdown)."""

Ending = Callable[["RawHost"], None]


class RawHost:
    """A host that writes the protocol's lines itself, and so knows the server's process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._next_id = 0

    def send(self, method: str, **params: object) -> None:
        """Send a request without waiting for its answer."""
        self._next_id += 1
        self._write({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})

    def receive(self) -> dict[str, Any]:
        """Read the next line, which must be a protocol message."""
        assert self.process.stdout is not None
        message = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        return dict(message)

    def connect(self) -> None:
        """Do the handshake."""
        client = {"name": "raw", "version": "1"}
        self.send("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        assert self.receive()["result"]["serverInfo"]["name"] == "cycles-budget-mcp"
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def end_of_input(self) -> None:
        """Close the server's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self.process.send_signal(signal.SIGINT)

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


@contextmanager
def raw_host(environment: Environment) -> Iterator[RawHost]:
    """Start a server and be its host; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "budget_server"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield RawHost(process)
        finally:
            process.kill()


ENDINGS = [
    pytest.param(RawHost.end_of_input, 0, id="end of input"),
    pytest.param(RawHost.terminate, 128 + signal.SIGTERM, id="SIGTERM"),
    pytest.param(RawHost.interrupt, 128 + signal.SIGINT, id="SIGINT"),
]


@pytest.mark.parametrize(("end", "exit_code"), ENDINGS)
def test_an_idle_server_ends_by_itself(environment: Environment, end: Ending, exit_code: int) -> None:
    """MCP, stdio shutdown: a host kills what has not ended two seconds after it asked."""
    with raw_host(environment) as host:
        host.connect()

        with in_time(HOST_PATIENCE_SECONDS):
            end(host)
            code = host.process.wait(30)

    assert code == exit_code


@pytest.mark.parametrize(("end", "exit_code"), ENDINGS)
async def test_a_turn_in_flight_is_charged_at_its_bound_before_the_process_ends(
    environment: Environment, end: Ending, exit_code: int
) -> None:
    """Spend that may have happened is never handed back: nothing stays held, nothing is given back."""
    never = anyio.Event()
    with anyio.fail_after(30):
        async with ScriptedClaude([Turn(text="never heard", hold=never)]) as endpoint:
            environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
            with raw_host(environment) as host:
                await anyio.to_thread.run_sync(host.connect)
                host.send("tools/call", name="delegate_to_claude", arguments={"task": "Wait."})
                (request,) = await endpoint.wait_for_requests(1)
                balance_during = await anyio.to_thread.run_sync(ledger_balance, environment)

                with in_time(HOST_PATIENCE_SECONDS):
                    end(host)
                    code = await anyio.to_thread.run_sync(host.process.wait, 30)

    assert request.body["stream"] is True
    assert code == exit_code
    assert balance_during["reserved"] > 0
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, balance_during["reserved"])


def test_a_message_past_all_measure_is_refused_and_the_next_one_served(environment: Environment) -> None:
    """A client that sends without end must fill neither the memory nor the way of others."""
    with raw_host(environment) as host:
        host.connect()
        host.send("tools/call", name="estimate_cost", arguments={"prompt": "x" * (MAX_LINE_BYTES + 1)})
        host.send("tools/list")

        while "tools" not in host.receive().get("result", {}):
            pass

        assert host.process.poll() is None


def test_a_host_that_dies_takes_its_server_with_it(environment: Environment) -> None:
    """Both ends of the pipes are gone at once: nobody is left to serve, and nothing is to be complained of."""
    with raw_host(environment) as host:
        host.connect()
        host.send("tools/call", name="reserve_budget", arguments={"usd": "0.10"})
        assert host.process.stdout is not None
        host.process.stdout.close()
        host.end_of_input()

        host.process.wait(30)

    assert ledger_balance(environment)["allocated"] == 100_000_000


def test_standard_output_carries_the_protocol_alone(environment: Environment) -> None:
    """MCP, stdio: a server must not write anything to its stdout that is not a protocol message."""
    with raw_host(environment) as host:
        host.connect()
        host.send("tools/list")
        assert host.receive()["result"]["tools"]
        host.send("tools/call", name="reserve_budget", arguments={"usd": "nonsense"})
        assert host.receive()["result"]["isError"] is True

        host.end_of_input()
        assert host.process.stdout is not None
        rest = host.process.stdout.read()

    assert rest == ""
