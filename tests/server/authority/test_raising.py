"""How far a person's word raises a budget: never past the most that is set, never down, and just enough."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from budget_server.authority.budgets import all_budgets, allocate
from budget_server.authority.raising import RootBudget
from budget_server.database.asynchronous import AsyncFile
from budget_tools.core.money import USD_MICROCENTS
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools.toolkit import Want
from contract.harness import Clock
from contract.local import EmbeddedAuthority, opened

ACTION = {"kind": "llm.completion", "name": "claude"}
MOST = 1_000
AMOUNTS = st.integers(min_value=0, max_value=2 * MOST)
SPENDER = Subject({"tenant": "acme", "agent": "bot"})


@settings(deadline=None)
@given(
    first=AMOUNTS,
    narrower=st.none() | AMOUNTS,
    steps=st.lists(st.tuples(AMOUNTS, st.none() | AMOUNTS, st.none() | AMOUNTS), min_size=1, max_size=8),
)
def test_whatever_is_wanted_and_named(
    first: int, narrower: int | None, steps: Sequence[tuple[int, int | None, int | None]]
) -> None:
    """What is asked for bears the call; what a person names is granted up to the most; neither lowers the budget."""
    with TemporaryDirectory() as directory, opened(Path(directory) / "ledger.db", Clock()) as authority:
        authority.run(
            lambda ledger: allocate(ledger.db, scope="tenant:acme", tenant="acme", unit=USD_MICROCENTS, amount=first)
        )
        if narrower is not None:
            authority.run(
                lambda ledger: allocate(
                    ledger.db, scope="tenant:acme/agent:bot", tenant="acme", unit=USD_MICROCENTS, amount=narrower
                )
            )
        anyio.run(_take, authority, first, steps)


async def _take(authority: EmbeddedAuthority, first: int, steps: Sequence[tuple[int, int | None, int | None]]) -> None:
    root = RootBudget(AsyncFile(authority.writer), "acme", MOST)
    allocated = first
    for number, (amount, makes_do_with, named) in enumerate(steps):
        key = f"key-{number}"
        least = None if makes_do_with is None else min(amount, makes_do_with)
        want = Want(who="It", action=ACTION, microcents=amount, makes_do_with_microcents=least)
        short = await root.shortfall(SPENDER, want, key)
        if short is not None:
            assert short.allocated == allocated < short.raise_to <= MOST
            await root.raise_to(short.raise_to if named is None else named)
            grown = short.raise_to if named is None else max(allocated, min(named, MOST))
            now = _allocated(authority)
            assert now == grown
            allocated = now
        held = await _reserve(authority, want.least_microcents, key)
        if short is None:
            assert held or _is_past_help(authority, allocated, want.least_microcents)
        elif named is None:
            assert held
        if held:
            assert await root.shortfall(SPENDER, want, key) is None


def _allocated(authority: EmbeddedAuthority) -> int:
    return authority.run(lambda ledger: all_budgets(ledger.db, "acme"))[0].allocated


def _is_past_help(authority: EmbeddedAuthority, allocated: int, least: int) -> bool:
    """Whether no budget that a person may grant would bear the call."""
    root, *below = authority.run(lambda ledger: all_budgets(ledger.db, "acme"))
    return allocated - root.remaining + least > MOST or any(each.remaining < least for each in below)


async def _reserve(authority: EmbeddedAuthority, amount: int, key: str) -> bool:
    response = await authority.client.create_reservation(
        {
            "idempotency_key": key,
            "subject": SPENDER.wire(),
            "action": ACTION,
            "estimate": {"unit": USD_MICROCENTS, "amount": amount},
        }
    )
    return response.is_success
