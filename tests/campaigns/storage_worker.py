"""Serves damaged data directories, each in a process of its own that is a fork of this one.

With a data directory as its argument it is a writer instead: it takes turns there until its input ends, a line each.

Reads one JSON order a line, ``{"directory": …, "limits": {…}, "tenant": …}``, and answers each with what a server does
there, and what ``check`` says of a copy. Everything is imported once, so that a process costs milliseconds.
"""

import asyncio
import importlib
import json
import logging
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

from budget_server.authority.ledger import Ledger
from budget_server.authority.listing import balances
from budget_server.authority.requests import CommitRequest, ReserveRequest
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.delegations.store import SqliteDelegationStore
from budget_server.maintenance.consistency import inspect
from budget_server.services import open_ledger
from budget_tools.core.errors import BudgetError
from budget_tools.core.money import USD_MICROCENTS, Money
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import Message, Step
from server.delegations.making import spend, started

TENANT = "acme"
Order = dict[str, Any]


def main() -> None:
    """Serve orders until nobody is left to give any."""
    logging.disable(logging.CRITICAL)
    importlib.import_module("budget_server.config.time_zones")
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            os.write(writing, json.dumps(_live(order)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            sys.stdout.write((answer.read() or b'{"died": true}').decode() + "\n")
        os.wait()
        sys.stdout.flush()


def _live(order: Order) -> dict[str, Any]:
    directory = Path(order["directory"])
    if order.get("check", True):
        copy = directory.with_name(directory.name + "-checked")
        shutil.copytree(directory, copy)
        checked = _check(copy)
        shutil.rmtree(copy)
    else:
        checked = []
    for name, limit in order.get("limits", {}).items():
        which = getattr(resource, name)
        resource.setrlimit(which, (limit, resource.getrlimit(which)[1]))
    if order.get("user"):
        os.setuid(order["user"])
    return {"check": checked, **serve(directory)}


def _check(directory: Path) -> list[str]:
    try:
        return inspect(directory, None).findings
    except BudgetError as exc:
        return [exc.message]
    except Exception as exc:
        return [f"FAILED: {exc!r}"]


def serve(directory: Path) -> dict[str, Any]:
    """Do what a server does: show the balance, reserve, commit, show it again, and list the delegations."""
    answer: dict[str, Any] = {"refused": "", "balances": [], "moved": [], "spent": None}
    settings = Settings(budget_data_dir=directory, budget_usd=700, cycles_tenant=TENANT)
    try:
        store = open_ledger(settings)
        try:
            answer["balances"].append(store.run(balance))
            answer["moved"].append(move(store, "served"))
            answer["balances"].append(store.run(balance))
        finally:
            store.close()
        answer["spent"] = asyncio.run(_delegated(directory))
    except BudgetError as exc:
        answer["refused"] = exc.message
    except Exception as exc:
        answer["failed"] = repr(exc)
    return answer


def balance(ledger: Ledger) -> list[list[object]]:
    """Give every budget's figures."""
    rows = balances(ledger.db, TENANT, {"tenant": TENANT}).body["balances"]
    columns = ("allocated", "spent", "reserved", "remaining", "debt")
    return [[row["scope_path"], *(row[column]["amount"] for column in columns if column in row)] for row in rows]


def reserve(store: LedgerStore, key: str, amount: int, ttl_ms: int = 60_000) -> str:
    """Reserve, and give the reservation."""
    request = ReserveRequest.model_validate(
        {
            "idempotency_key": key,
            "subject": {"tenant": TENANT, "agent": "bot"},
            "action": {"kind": "tool.call", "name": "x"},
            "estimate": {"unit": USD_MICROCENTS, "amount": amount},
            "ttl_ms": ttl_ms,
        }
    )
    return str(store.run(lambda ledger: ledger.reserve(TENANT, request)).body["reservation_id"])


def commit(store: LedgerStore, reservation_id: str, key: str, amount: int) -> int:
    """Settle with what was used, and give what was charged."""
    request = CommitRequest.model_validate(
        {"idempotency_key": key, "actual": {"unit": USD_MICROCENTS, "amount": amount}}
    )
    answer = store.run(lambda ledger: ledger.commit(TENANT, reservation_id, request))
    return int(answer.body["charged"]["amount"])


def move(store: LedgerStore, key: str, amount: int = 100) -> int:
    """Reserve and commit, and give what was charged."""
    return commit(store, reserve(store, key, amount), key, amount)


def set_budgets(store: LedgerStore) -> None:
    """Give the tenant a budget, and its agent one within it."""
    store.run(
        lambda ledger: ledger.db.execute(
            "INSERT INTO budgets (scope, unit, tenant, allocated, remaining) VALUES"
            " ('tenant:acme', 'USD_MICROCENTS', 'acme', 1000000, 1000000),"
            " ('tenant:acme/agent:bot', 'USD_MICROCENTS', 'acme', 500000, 500000)"
        )
    )


async def take_turn(ledger: LedgerStore, store: SqliteDelegationStore, name: str, number: int) -> None:
    """Let a delegation take a turn, in the steps of a real one, charged a little less than its bound."""
    charge = 70 + number % 10
    reservation_id = reserve(ledger, f"{name}-{number}", 100)
    await store.mark_in_flight(name, spend(reservation_id, 100, turn=number))
    record = TurnRecord(
        number=number,
        model="claude",
        reservation_id=reservation_id,
        reserved=Money.of(100, USD_MICROCENTS),
        charged=Money.of(charge, USD_MICROCENTS),
        actual_source="usage",
    )
    words = [Message(role="user", content="Go on. " * 300), Message(role="assistant", content="Yes. " * 300)]
    spent = (await store.find(TENANT, name)).spent_microcents + charge
    await store.write(name, Step(turn=record, messages=words, spent_microcents=spent))
    commit(ledger, reservation_id, f"{name}-{number}", charge)
    await store.write(name, Step(struck=[reservation_id]))


async def write_on(directory: Path) -> None:
    """Take turns until the input ends."""
    ledger, store = LedgerStore(directory / LEDGER_FILE), SqliteDelegationStore(directory)
    await started(store, "writer")
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    number = 0
    while not ended.done():
        number += 1
        await take_turn(ledger, store, "writer", number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    ledger.close()
    await store.aclose()


async def _delegated(directory: Path) -> dict[str, int]:
    store = SqliteDelegationStore(directory)
    try:
        found, _ = await store.list(TENANT, limit=100)
        whole = [await store.find(TENANT, each.delegation_id) for each in found]
        for each in whole:
            await store.conversation(each.delegation_id)
    finally:
        await store.aclose()
    return {each.delegation_id: each.spent_microcents for each in whole}


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(write_on(Path(sys.argv[1])))
    else:
        main()
