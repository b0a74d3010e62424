"""A process that is killed while Claude answers can say nothing more; its ledger must."""

import json
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from budget_server.authority.listing import list_reservations
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.database.file import wall_ms
from budget_server.demo.scripted_claude import ScriptedClaude, Turn
from budget_tools.spends.reserver import LEASE_MS
from tools.delegation.harness import PATIENCE_SECONDS, ledger_balance

pytestmark = pytest.mark.anyio


async def test_what_a_killed_process_had_sent_is_charged_when_its_lease_ends(tmp_path: Path) -> None:
    """Design: process killed, sent and not answered: expiry books the bound; never is it given back."""
    async with ScriptedClaude([Turn(text="Never.", hold=anyio.Event())]) as claude:
        environment = {
            "PATH": os.environ["PATH"],
            "BUDGET_DATA_DIR": str(tmp_path / "data"),
            "BUDGET_USD": "1.00",
            "ANTHROPIC_API_KEY": "test",
            "ANTHROPIC_BASE_URL": claude.base_url,
        }
        process = await anyio.open_process([sys.executable, "-m", "budget_server"], env=environment)
        async with process:
            assert process.stdin is not None
            for message in _MESSAGES:
                await process.stdin.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            with anyio.fail_after(PATIENCE_SECONDS):
                (request,) = await claude.wait_for_requests(1)
                await request.held.wait()
            process.send_signal(signal.SIGKILL)
            await process.wait()

    held = ledger_balance(tmp_path)
    lease_over = ledger_balance(tmp_path, clock=lambda: wall_ms() + LEASE_MS + 60_000)
    store = LedgerStore(tmp_path / "data" / LEDGER_FILE)
    try:
        answer = store.run(lambda ledger: list_reservations(ledger.db, "local", {"include": "committed_metadata"}))
    finally:
        store.close()
    (reservation,) = answer.body["reservations"]

    bound = held["reserved"]
    assert 0 < bound == reservation["reserved"]["amount"]
    assert held == {"allocated": 100_000_000, "spent": 0, "reserved": bound, "remaining": 100_000_000 - bound}
    assert lease_over == {"allocated": 100_000_000, "spent": bound, "reserved": 0, "remaining": 100_000_000 - bound}
    assert reservation["status"] == "COMMITTED"
    assert reservation["committed_metadata"]["actual_source"] == "bound"


_MESSAGES: list[dict[str, object]] = [
    {
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
    {
        "id": 2,
        "method": "tools/call",
        "params": {"name": "delegate_to_claude", "arguments": {"task": "Do it."}},
    },
]
