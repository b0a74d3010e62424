"""A crash after every single write of a delegation: what each leaves behind is settled, once and in full.

The data directory is copied after each write, while nothing else is being written; nobody holds a lock of the copy, so
it is what ``kill -9`` leaves at that moment. Random kills seldom meet the shortest of these moments.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from pydantic import BaseModel, SecretStr
from runcycles import CyclesResponse

from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.config.settings import Settings
from budget_server.delegations.store import SqliteDelegationStore
from budget_server.demo.scripted_claude import Answer, Failure, ScriptedClaude, ToolCall, Turn
from budget_server.maintenance.consistency import inspect
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.money import parse_usd
from budget_tools.delegation.store import Call, Step, Stored
from budget_tools.spends.records import Spend
from budget_tools.spends.reserver import HOLD_MS
from campaigns.books import check_kept, look
from tools.delegation.harness import MODEL, PATIENCE_SECONDS, Bench, servers_file, shed

pytestmark = pytest.mark.anyio

Body = BaseModel | dict[str, Any]
PRICES = {"ramble": {"usd": "0.0007"}, "crash": {"usd": "0.0002"}}

BUY = Turn(thinking="Hm.", text="I buy.", tool_calls=(ToolCall("shed__ramble", {"length": 5}),))
SCRIPTS: Mapping[str, tuple[str, list[Answer]]] = {
    "an answer after tools": ("1.00", [BUY, Failure(status=429, retry_after_seconds=0), BUY, Turn(text="Done.")]),
    "refused unbilled": ("1.00", [BUY, Failure(status=400)]),
    "broken off": ("1.00", [BUY, Turn(text="Half and half.", fault="drop_mid_stream")]),
    "a tool that dies": ("1.00", [Turn(text="I break it.", tool_calls=(ToolCall("shed__crash"),)), Turn(text="Done.")]),
    "a last answer from what is held": ("0.05", [BUY] * 20),
}


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A data directory right after a write."""

    directory: Path
    after: str
    may_be_billed: int
    """Requests that had reached Claude by then, and were not refused."""


class Camera:
    """Copies the data directory after every write."""

    def __init__(self, data: Path, asked: Callable[[], int]) -> None:
        self._data = data
        self._asked = asked
        self.photos: list[Photo] = []

    def shoot(self, after: str) -> None:
        """Copy it now."""
        directory = self._data.with_name(f"photo-{len(self.photos):02}")
        shutil.copytree(self._data, directory / "data")
        self.photos.append(Photo(directory=directory, after=after, may_be_billed=self._asked()))


class PhotographedLedger(EmbeddedCyclesClient):
    """The embedded authority, with a photo after every operation that writes."""

    camera: Camera

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve."""
        response = await super().create_reservation(request)
        self.camera.shoot("reserve")
        return response

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend."""
        response = await super().extend_reservation(reservation_id, request)
        self.camera.shoot("extend")
        return response

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit."""
        response = await super().commit_reservation(reservation_id, request)
        self.camera.shoot("commit")
        return response

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release."""
        response = await super().release_reservation(reservation_id, request)
        self.camera.shoot("release")
        return response


class PhotographedStore(SqliteDelegationStore):
    """The store of delegations, with a photo after every operation that writes."""

    camera: Camera

    async def start(self, call: Call, delegation_id: str, *arguments: Any, **named: Any) -> Stored:
        """Start."""
        stored = await super().start(call, delegation_id, *arguments, **named)
        self.camera.shoot("start")
        return stored

    async def mark_in_flight(self, delegation_id: str, spend: Spend, *, struck: Collection[str] = ()) -> None:
        """Write a spend down."""
        await super().mark_in_flight(delegation_id, spend, struck=struck)
        self.camera.shoot("hold" if spend.is_hold else "depart")

    async def write(self, delegation_id: str, step: Step) -> None:
        """Write a step down."""
        await super().write(delegation_id, step)
        self.camera.shoot("turn" if step.turn else "end" if step.outcome else "messages")


def services_of(directory: Path, base_url: str, usd: str) -> Services:
    """Open a server's services over a data directory."""
    return Services(
        Settings(
            budget_data_dir=directory / "data",
            budget_usd=parse_usd(usd),
            anthropic_api_key=SecretStr("test"),
            anthropic_base_url=base_url,
            budget_model=MODEL,
            budget_subagent_servers=servers_file(directory, {"shed": {**shed(), "budget": {"tools": PRICES}}}),
        )
    )


async def photographed(directory: Path, usd: str, script: list[Answer]) -> list[Photo]:
    """Let a delegation run to its end, and give what it wrote."""
    unbilled = {number for number, answer in enumerate(script) if isinstance(answer, Failure)}

    def asked() -> int:
        return len(set(range(len(claude.message_requests))) - unbilled)

    async with ScriptedClaude(script) as claude:
        services = services_of(directory, claude.base_url, usd)
        camera = Camera(directory / "data", asked)
        inner = services.cycles
        assert isinstance(inner, EmbeddedCyclesClient)
        ledger = PhotographedLedger(inner.ledger.writer, inner._config)
        store = PhotographedStore(directory / "data")
        ledger.camera = store.camera = camera
        services.__dict__ |= {"cycles": ledger, "delegation_store": store}
        try:
            async with Client(create_server(services)) as client:
                bench = Bench(client=client, services=services, claude=claude)
                await bench.delegate(tools=["shed__*"])
        finally:
            with anyio.fail_after(PATIENCE_SECONDS):
                await services.aclose()
    return camera.photos


@pytest.mark.parametrize("name", SCRIPTS)
async def test_whatever_write_was_the_last_one_the_next_start_settles_it(tmp_path: Path, name: str) -> None:
    """Design, when things go wrong: what is found un-struck at a start is settled by the table; so at every moment."""
    usd, script = SCRIPTS[name]
    photos = await photographed(tmp_path, usd, script)
    assert len(photos) >= 8  # else it photographed nothing that matters

    for photo in photos:
        environment = {"BUDGET_DATA_DIR": str(photo.directory / "data")}
        assert inspect(photo.directory / "data", None).findings == [], photo
        before = await look(environment)
        before.check_sums()
        before.check_answers()
        services = services_of(photo.directory, "http://127.0.0.1:9", usd)
        await services.settle_orphans()
        await services.aclose()
        after = await look(environment)
        settled = inspect(photo.directory / "data", None)
        assert (settled.findings, settled.notes) == ([], []), photo

        after.check_sums()
        check_kept(before, after, was_killed=True)
        (delegation,) = after.delegations.values()
        assert delegation.status != "running"
        assert not after.open_spends
        charged = [turn for turn in delegation.turns if turn.charged is not None]
        assert len(charged) >= photo.may_be_billed, photo
        later = await look(environment, later_ms=2 * HOLD_MS)
        assert (later.ledger.balance["reserved"], later.ledger.balance["spent"]) == (0, after.charged), photo
