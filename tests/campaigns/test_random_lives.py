"""Random lives of delegations: every answer, fault, denial, cancel, crash and resume, in every order.

After every step the books are compared: each delegation with its turns, all of them with the ledger, and the ledger
with the requests that reached Claude. ``--hypothesis-profile=nightly`` lives twenty times as many.
"""

import shutil
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mcp import Client
from pydantic import SecretStr

from budget_server.config.settings import Settings
from budget_server.delegations.store import SqliteDelegationStore
from budget_server.demo.scripted_claude import Answer, Failure, ScriptedClaude, ToolCall, Turn
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.money import format_usd
from budget_tools.delegation.records import RESUMABLE
from budget_tools.delegation.store import Stored
from campaigns.books import Books, check_kept, check_not_asked_again, read
from tools.delegation.harness import MODEL, PATIENCE_SECONDS, Bench, servers_file, shed

T = TypeVar("T")

FALLBACKS = ["claude-haiku-4-5"]
PRICES = {
    "shed": {"ramble": {"usd": "0.0007"}, "complain": {"usd": "0.0003"}, "crash": {"usd": "0.0002"}},
    "till": {"hang": {"usd": "0.0011"}},
}
"""By server: what waits in the till goes on waiting where another delegation crashes the shed."""

UNBILLED: Mapping[str, Failure] = {
    "429": Failure(status=429, retry_after_seconds=0),
    "529": Failure(status=529, retry_after_seconds=0),
    "400": Failure(status=400),
}
"""Refusals that surely cost nothing."""

FAULTS: Mapping[str, Answer] = {
    "500": Failure(status=500),
    "broken": Turn(text="Half and half.", fault="drop_mid_stream"),
    "reset": Turn(text="Half and half.", fault="reset_before_headers"),
    "no usage": Turn(text="Whole.", fault="no_usage"),
    "no end": Turn(text="Whole.", fault="no_message_delta"),
}
"""What may have been billed, nobody knows at what cost."""

ANSWERS: Mapping[str, Turn] = {
    "say": Turn(text="Done."),
    "look": Turn(text="I look.", tool_calls=(ToolCall("shed__count"),)),
    "think": Turn(thinking="Hm.", text="I think.", tool_calls=(ToolCall("shed__count"),)),
    "buy": Turn(
        text="I buy.",
        tool_calls=(ToolCall("shed__ramble", {"length": 900}), ToolCall("shed__complain"), ToolCall("no")),
    ),
    "crash": Turn(text="I break it.", tool_calls=(ToolCall("shed__crash"), ToolCall("shed__ramble", {"length": 5}))),
    "long": Turn(text="word " * 6_000),
    "refuse": Turn(text="No.", stop_reason="refusal"),
}

WAITS = ("hold", "hold in the middle", "hang", "hang in the middle", "tool hangs")
"""Answers that come when they are let go, or never: moments at which anything else may happen."""

USUAL = ("buy", "think", "look")

plans = st.lists(
    st.sampled_from([*USUAL, *USUAL, *USUAL, *WAITS, *WAITS, *ANSWERS, *FAULTS, *UNBILLED]), min_size=2, max_size=8
)
picks = st.integers(0, 2**16)
microcents = st.sampled_from([40_000_000, 15_000_000, 6_000_000, 2_000_000, 500_000, 30_000, 1, 0])
"""Up to 40 cents, less than any turn costs, and nothing: a turn of the longest answer reserves about 6 cents."""

delegations = st.fixed_dictionaries(
    {
        "plan": plans,
        "limit": st.sampled_from([None, None, None, 15_000_000, 6_000_000, 2_000_000, 30_000]),
        "max_turns": st.sampled_from([20, 5, 2, 1]),
        "max_output_tokens": st.sampled_from([40, 300, 1_000, 4_096]),
        "has_tools": st.sampled_from([True, True, True, False]),
        "falls_back": st.booleans(),
        "calls": st.sampled_from([1, 1, 3]),
    }
)
"""What is delegated, and by how many calls of one key at once."""


@dataclass(kw_only=True)
class Played:
    """A delegation as the script knows it."""

    arguments: dict[str, Any]
    plan: deque[str]
    delegation_id: str = ""
    waits_for: str = ""
    """What its script waits in; empty while it does not."""
    waits: anyio.Event = field(default_factory=anyio.Event)
    go_on: anyio.Event = field(default_factory=anyio.Event)
    asked: Counter[bool] = field(default_factory=Counter[bool])
    """Requests that arrived, by whether they were refused unbilled."""

    def wait(self, what: str) -> None:
        """Note that it waits."""
        self.waits_for = what
        self.waits.set()

    def let_go(self) -> None:
        """Let it go on, if it can."""
        self.go_on.set()
        self.waits_for, self.waits, self.go_on = "", anyio.Event(), anyio.Event()


class World:
    """A server, its data directory, and a Claude that outlives both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.played: dict[str, Played] = {}
        self.requests: list[dict[str, Any]] = []
        self.knocking: Played | None = None
        self.port = 0

    def script(self, body: dict[str, Any], _number: int) -> Answer:
        """Answer as the delegation's plan says, and say no more once it has ended."""
        self.requests.append(body)
        played = self.played[str(body["messages"][0]["content"]).split(".", 1)[0]]
        what = played.plan.popleft() if played.plan else "say"
        played.asked[what in UNBILLED] += 1
        if what in UNBILLED:
            return UNBILLED[what]
        if what in FAULTS:
            return FAULTS[what]
        may_use_tools = "tools" in body and body.get("tool_choice") != {"type": "none"}
        if what in ANSWERS:
            answer = ANSWERS[what]
            return answer if may_use_tools or not answer.tool_calls else Turn(text=answer.text)
        if what == "tool hangs":
            if not may_use_tools:
                return ANSWERS["say"]
            self.knocking = played
            return Turn(text="I knock.", tool_calls=(ToolCall("till__hang", {"port": self.port}),))
        played.wait(what)
        if what.startswith("hang"):
            return Turn(text="Never.", fault="hang_before_headers" if what == "hang" else "hang_mid_stream")
        calls = (ToolCall("shed__count"),) if may_use_tools else ()
        return Turn(
            text="At last.", tool_calls=calls, hold=played.go_on, hold_at="headers" if what == "hold" else "middle"
        )

    async def knocked(self, stream: anyio.abc.SocketStream) -> None:
        """Hear a tool that will never answer."""
        async with stream:
            assert self.knocking is not None
            self.knocking.wait("tool hangs")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ScriptedClaude]:
        """Open the door that tools knock at, and Claude's."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket, not of a query
        async with listener, anyio.create_task_group() as tasks, ScriptedClaude(self.script) as claude:
            tasks.start_soon(listener.serve, self.knocked)
            yield claude
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def serve(self, claude: ScriptedClaude, data: Path, allocated: int) -> AsyncIterator[Bench]:
        """Run a server over a data directory, and settle what runs at its end."""
        priced = {name: {**shed(), "budget": {"tools": prices}} for name, prices in PRICES.items()}
        services = Services(
            Settings(
                budget_data_dir=data,
                budget_usd=format_usd(allocated),
                anthropic_api_key=SecretStr("test"),
                anthropic_base_url=claude.base_url,
                budget_model=MODEL,
                budget_subagent_servers=servers_file(self.directory, priced),
            )
        )
        try:
            await services.settle_orphans()
            async with Client(create_server(services)) as client:
                yield Bench(client=client, services=services, claude=claude)
        finally:
            with anyio.fail_after(PATIENCE_SECONDS):
                await services.aclose()

    async def quiet(self, bench: Bench, played: Played) -> None:
        """Wait until a delegation has stopped, or its script waits."""
        delegation = bench.services.delegations._running.get(played.delegation_id)
        if delegation is None:
            return
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:

                async def stopped() -> None:
                    while not delegation.is_done:
                        await delegation.next_change()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(stopped)
                await played.waits.wait()
                tasks.cancel_scope.cancel()

    async def books(self, bench: Bench) -> Books:
        """Read them."""
        store = bench.services.delegation_store
        assert isinstance(store, SqliteDelegationStore)
        return await read(store, bench.ledger)


class RandomLives(RuleBasedStateMachine):
    """Delegations of one budget, each with a script of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        self.directory = Path(self.closing.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.portal = self.closing.enter_context(start_blocking_portal("asyncio"))
        self.world = World(self.directory)
        self.claude = self.closing.enter_context(self.portal.wrap_async_context_manager(self.world.open()))
        self.serving: AbstractContextManager[Bench] | None = None
        self.others: dict[str, int] = {}
        """What other spenders hold, by reservation."""
        self.beside = 0
        """What they have spent, in microcents."""
        self.lives = 0
        self.before: Books | None = None
        self.seen = 0
        self.was_killed = False

    # -- the machine's own ------------------------------------------------------------------------------------------

    def run(self, function: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
        """Run something on the event loop."""
        return self.portal.call(partial(function, *arguments, **named))

    @initialize(allocated=st.sampled_from([60_000_000, 15_000_000, 4_000_000, 500_000]), first=delegations)
    def begin(self, allocated: int, first: dict[str, Any]) -> None:
        """Allocate up to 60 cents, and start a delegation."""
        self.allocated = allocated
        self.serve()
        self.delegate(**first)

    def serve(self) -> None:
        """Start a server."""
        data = self.directory / f"data-{self.lives}"
        serving = self.portal.wrap_async_context_manager(self.world.serve(self.claude, data, self.allocated))
        self.bench = serving.__enter__()
        self.serving = serving

    def stop_serving(self) -> None:
        """Stop the server."""
        serving, self.serving = self.serving, None
        if serving is not None:
            serving.__exit__(None, None, None)

    def wait(self, played: Played) -> None:
        """Let a delegation come to where it waits or stops."""
        self.run(self.world.quiet, self.bench, played)

    def picked(self, pick: int) -> Played:
        """Choose a delegation."""
        everyone = list(self.world.played.values())
        return everyone[pick % len(everyone)]

    def stored(self, played: Played) -> Stored:
        """Look a delegation up."""
        return self.run(self.bench.services.delegation_store.find, "local", played.delegation_id)

    # -- delegations ------------------------------------------------------------------------------------------------

    @rule(another=delegations)
    def delegate_another(self, another: dict[str, Any]) -> None:
        """Start one more."""
        self.delegate(**another)

    def delegate(
        self,
        *,
        plan: list[str],
        limit: int | None,
        max_turns: int,
        max_output_tokens: int,
        has_tools: bool,
        falls_back: bool,
        calls: int,
    ) -> None:
        """Start a delegation, by one call or by several of the same key at once."""
        name = f"Task {len(self.world.played)}"
        arguments: dict[str, Any] = {
            "task": f"{name}. Do it.",
            "max_turns": max_turns,
            "max_output_tokens": max_output_tokens,
            "budget_usd": None if limit is None else format_usd(limit),
            "tools": ["shed__*", "till__hang"] if has_tools else [],
            "fallback_models": FALLBACKS if falls_back else [],
            "idempotency_key": name,
            "wait_seconds": 0,
        }
        played = self.world.played[name] = Played(arguments=arguments, plan=deque(plan))
        ids: set[str] = set()

        async def call() -> None:
            ids.add((await self.bench.delegate(**arguments))["delegation_id"])

        async def call_at_once() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(calls):
                    tasks.start_soon(call)

        self.run(call_at_once)
        (played.delegation_id,) = ids
        self.wait(played)

    @precondition(lambda self: self.world.played)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        """Make the call that started it again: it joins, and nothing more happens."""
        played = self.picked(pick)
        seen = len(self.world.requests)
        again = self.run(self.bench.delegate, **played.arguments)
        assert again["delegation_id"] == played.delegation_id
        assert again["status"] == self.stored(played).status
        assert len(self.world.requests) == seen

    @precondition(lambda self: any(each.waits_for for each in self.world.played.values()))
    @rule(pick=picks, what=st.sampled_from(["crash", "cancel", "let go"]))
    def interrupt(self, pick: int, what: str) -> None:
        """Let something happen to what waits for Claude or for a tool."""
        waiting = [each for each in self.world.played.values() if each.waits_for]
        played = waiting[pick % len(waiting)]
        if what == "crash":
            self.crash()
        elif what == "let go" and played.waits_for.startswith("hold"):
            self.run(_call, played.let_go)
            self.wait(played)
        else:
            self.cancel(played)

    def cancel(self, played: Played) -> None:
        """Cancel it, wherever it is."""
        result = self.run(self.bench.status, played.delegation_id, cancel=True)
        assert result["status"] != "running"
        self.run(_call, played.let_go)

    @precondition(lambda self: self.world.played)
    @rule(pick=picks, plan=plans, more_turns=st.integers(0, 4), more=st.none() | microcents)
    def resume(self, pick: int, plan: list[str], more_turns: int, more: int | None) -> None:
        """Let it go on under limits that are no tighter; refused where it runs or has nothing left to do."""
        played = self.picked(pick)
        stored = self.stored(played)
        own = stored.task.budget_microcents
        arguments = {
            "resume": played.delegation_id,
            "task": "",
            "max_turns": min(stored.task.max_turns + more_turns, 100),
            "budget_usd": None if own is None or more is None else format_usd(own + more),
            "wait_seconds": 0,
        }
        if stored.status not in RESUMABLE:
            assert self.run(self.bench.refused, **arguments).startswith("NOT_RESUMABLE: ")
            return
        played.plan = deque(plan)
        self.run(self.bench.delegate, **arguments)
        self.wait(played)

    # -- the budget -------------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["another takes", "another gives back", "fund", "freeze", "thaw"]),
        amount=microcents,
        part=st.integers(1, 4),
    )
    def change_the_budget(self, what: str, amount: int, part: int) -> None:
        """Let an operator or another spender do something."""
        if what == "another takes":
            self.another_takes(part)
        elif what == "another gives back" and self.others:
            self.another_gives_back(part - 1)
        elif what == "fund":
            statement = "UPDATE budgets SET allocated = allocated + ?1, remaining = remaining + ?1"
            self.run(self.bench.ledger, lambda ledger: ledger.db.execute(statement, (amount,)))
        else:
            self.run(self.bench.set_budget, status="FROZEN" if what == "freeze" else "ACTIVE")

    def another_takes(self, part: int) -> None:
        """Another spender reserves what remains, or a part of it."""
        amount = self.run(self.bench.balance)["remaining"] // part
        arguments = {"amount": amount, "unit": "USD_MICROCENTS", "ttl_seconds": 3_600}
        result = self.run(self.bench.call, "reserve_budget", **arguments).structured_content
        assert result is not None
        if result["decision"] != "DENY":
            self.others[result["reservation_id"]] = amount

    def another_gives_back(self, quarters: int) -> None:
        """It spends so much of it, and gives the rest back."""
        reservation_id, amount = self.others.popitem()
        spent = amount * quarters // 4
        commit = {"reservation_id": reservation_id, "amount": spent, "unit": "USD_MICROCENTS"}
        assert not self.run(self.bench.call, "commit_usage", **commit).is_error
        self.beside += spent

    # -- crashes ----------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Go on with the files as they are now, of which nobody holds a lock: as after kill -9 at this moment.

        Nothing is being written: every delegation has stopped, or waits for Claude or for a tool.
        """
        self.lives += 1
        shutil.copytree(self.directory / f"data-{self.lives - 1}", self.directory / f"data-{self.lives}")
        self.stop_serving()
        for played in self.world.played.values():
            self.run(_call, played.let_go)
        self.serve()
        self.was_killed = True

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        """Compare the delegations, the ledger and the requests with each other, and with how they stood before."""
        if self.serving is None:
            return
        books = self.run(self.world.books, self.bench)
        requests = self.world.requests[self.seen :]
        books.check_sums(beside=self.beside)
        books.check_answers()
        self.check_requests(books)
        active = {each for each, reserved in books.ledger.reservations.items() if reserved.state == "ACTIVE"}
        assert active == {spend.reservation_id for spend in books.open_spends} | set(self.others)
        running = {each.delegation_id for each in books.delegations.values() if each.status == "running"}
        assert running == {each.delegation_id for each in self.world.played.values() if each.waits_for}
        for delegation_id, spends in books.spends.items():
            assert not spends or delegation_id in running
        if self.before is not None:
            check_kept(self.before, books, was_killed=self.was_killed)
            check_not_asked_again(self.before, [body for body in requests if not _is_rebuilt(body)])
        self.before, self.seen, self.was_killed = books, len(self.world.requests), False

    def check_requests(self, books: Books) -> None:
        """Every request that reached Claude is a turn that was charged, or in flight, or was surely unbilled."""
        for played in self.world.played.values():
            turns = books.delegations[played.delegation_id].turns
            charged = sum(turn.charged is not None for turn in turns)
            in_flight = played.waits_for not in ("", "tool hangs")
            assert played.asked[False] == charged + in_flight, (played, turns)

    def teardown(self) -> None:
        """End all that runs, and see that nothing is held any more."""
        try:
            if self.serving is not None:
                for played in self.world.played.values():
                    self.run(self.bench.status, played.delegation_id, cancel=True)
                    self.run(_call, played.let_go)
                self.the_books_agree()
                assert self.run(self.bench.balance)["reserved"] == sum(self.others.values())
        finally:
            self.stop_serving()
            self.closing.close()


async def _call(function: Callable[[], T]) -> T:
    return function()


def _is_rebuilt(body: Mapping[str, Any]) -> bool:
    return "Work on this has begun" in str(body["messages"][0]["content"])


def test_in_every_order_of_events_the_books_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Design, when things go wrong: spend that may have happened is charged once, and never passes a limit."""
    monkeypatch.setattr("budget_tools.delegation.choice.CROWDED_PAUSES_SECONDS", (0.002, 0.004))
    monkeypatch.setattr("budget_tools.delegation.turn.FIRST_BACKOFF_SECONDS", 0.001)
    examples = settings().max_examples
    run_state_machine_as_test(
        RandomLives,
        settings=settings(
            max_examples=40 if examples <= 100 else examples * 2 // 5,
            stateful_step_count=10,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
