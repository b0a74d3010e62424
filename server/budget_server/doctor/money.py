"""Checks of the money: the ledger or the authority, what remains, what is unsettled, and the prices."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import apsw

from budget_server.authority.audit import audit
from budget_server.authority.budgets import all_budgets, root_scope
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.database.file import wall_ms
from budget_server.delegations.schema import DELEGATIONS_KIND
from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.delegations.workers import WorkerRegistry
from budget_server.doctor.finding import Finding, ok, problem, warning
from budget_server.services import Services
from budget_tools.core.errors import BudgetError, ConfigurationError
from budget_tools.core.money import USD_MICROCENTS, format_usd
from budget_tools.core.scopes import clear_command
from budget_tools.pricing.book import PriceBook
from budget_tools.spends.responses import Standing, standing

MAX_FINDINGS = 3
"""Most findings that are reported of an unsound ledger; ``check`` reports all."""

RETIREMENT_DAYS = 60
"""Days before a model's end from which a person is warned."""

ANSWER_SECONDS = 15.0
"""Longest wait for a Cycles server."""


def ledger(settings: Settings) -> Iterator[Finding]:
    """Check that this machine's ledger is sound, and report what is left of its budgets."""
    path = settings.budget_data_dir / LEDGER_FILE
    if not path.exists():
        if settings.budget_usd is None:
            yield warning(
                "There is no budget yet, so nothing can be reserved: set BUDGET_USD, or run "
                "`cycles-budget-mcp budget allocate 5`."
            )
        else:
            yield ok(f"The ledger is made at the first start, with ${format_usd(settings.budget_usd)}")
        return
    try:
        found = audit(path, wall_ms())
    except apsw.Error as exc:
        yield problem(f"The ledger {path} cannot be read ({exc}): restore a copy, or set BUDGET_DATA_DIR to another.")
        return
    if found.findings:
        for finding in found.findings[:MAX_FINDINGS]:
            yield problem(f"The ledger {path}: {finding}")
        if len(found.findings) > MAX_FINDINGS:
            yield problem("There is more: `cycles-budget-mcp check` tells all.")
        return
    yield ok(f"The ledger {path} is sound: {found.reservations} reservations, {found.events} events")
    yield from _budgets(settings, path)


def _budgets(settings: Settings, path: Path) -> Iterator[Finding]:
    tenant = settings.subject.tenant
    try:
        store = LedgerStore(path)
        try:
            budgets = store.run(lambda opened: all_budgets(opened.db, tenant))
        finally:
            store.close()
    except BudgetError as exc:
        yield problem(str(exc))
        return
    if not budgets:
        yield warning(
            f"The tenant {tenant} has no budget, so nothing can be reserved: run `cycles-budget-mcp budget allocate 5`."
        )
    for budget in budgets:
        name = "The budget" if budget.scope == root_scope(tenant) else f"The budget of {budget.scope}"
        amounts = f"{budget.show(budget.remaining)} of {budget.show(budget.allocated)} left"
        held = f", {budget.show(budget.reserved)} held" if budget.reserved else ""
        if budget.status != "ACTIVE":
            yield warning(f"{name} is {budget.status}: nothing new is reserved")
        elif budget.remaining <= 0:
            yield warning(f"{name} is used up ({amounts}{held}): raise it with `cycles-budget-mcp budget fund 5`.")
        else:
            yield ok(f"{name}: {amounts}{held}")
        if budget.uncovered:
            clear = f"`cycles-budget-mcp {clear_command(budget.scope, budget.unit)}`"
            spent = budget.show(budget.uncovered)
            yield warning(f"{name} could not cover {spent} that was spent: {clear} once you have seen it.")


def authority(settings: Settings) -> Iterator[Finding]:
    """Check that the Cycles server answers this tenant, and report what is left of its budget."""
    address = urlsplit(settings.cycles_base_url)
    name = f"{address.scheme}://{address.hostname}{f':{address.port}' if address.port else ''}"  # without credentials
    try:
        found = anyio.run(_standing, settings)
    except BudgetError as exc:
        yield problem(f"The Cycles server {name}: {exc}")
    except TimeoutError:
        yield problem(f"The Cycles server {name} gave no answer within {ANSWER_SECONDS:.0f} seconds: is it up?")
    else:
        if found is None:
            yield warning(f"The Cycles server {name} answers, but has no budget for this subject: set one there.")
        elif found.remaining.amount <= 0:
            yield warning(f"The budget on {name} is used up: raise it there.")
        else:
            left, held = format_usd(found.remaining.amount), format_usd(found.reserved)
            yield ok(f"The budget on {name}: ${left} left, ${held} held")


async def _standing(settings: Settings) -> Standing | None:
    services = Services(settings.model_copy(update={"budget_subagent_servers": None, "budget_prices": None}))
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            return await standing(services.cycles, services.subject, USD_MICROCENTS)
    finally:
        await services.aclose()


def people(settings: Settings) -> Iterator[Finding]:
    """Report what a person is asked before money is spent."""
    if settings.budget_confirm_usd is not None:
        yield ok(f"A person confirms a delegation that may spend more than ${format_usd(settings.budget_confirm_usd)}")
    if settings.budget_raise_to_usd is None:
        return
    if settings.is_remote:
        yield warning("BUDGET_RAISE_TO_USD does nothing: budgets on a Cycles server are raised there. Leave it out.")
    else:
        yield ok(f"A person may raise the budget to ${format_usd(settings.budget_raise_to_usd)} where a call is denied")


def delegations(settings: Settings) -> Iterator[Finding]:
    """Check that the delegations' file can be read, and report what dead processes left behind."""
    path = settings.budget_data_dir / DELEGATIONS_FILE
    if path.exists():
        try:
            yield from _delegations(path)
        except apsw.Error as exc:
            yield problem(f"The delegations {path} cannot be read ({exc}): restore a copy, or move the file away.")
        except BudgetError as exc:
            yield problem(str(exc))
    waiting = sum(1 for _ in (settings.budget_data_dir / JOURNAL_DIRECTORY).rglob("*.json"))
    if waiting:
        yield warning(f"{_many(waiting, 'commit')} not answered yet: a server that starts, or runs, repeats them.")


def _delegations(path: Path) -> Iterator[Finding]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW)
    try:
        db.set_busy_timeout(5_000)
        DELEGATIONS_KIND.check_ours(db, str(path))
        if db.pragma("user_version") != len(DELEGATIONS_KIND.migrations):
            yield ok(f"The delegations {path} are brought up to date at the next start")
            return
        damage = str(db.execute("PRAGMA quick_check(1)").get)
        if damage != "ok":
            yield problem(f"The delegations {path} are damaged ({damage}): restore a copy, or move the file away.")
            return
        with db:  # one snapshot for all that follows
            rows = db.execute("SELECT delegation_id, owner FROM delegations WHERE owner IS NOT NULL")
            owner_of = {str(delegation): str(owner) for delegation, owner in rows}
            rows = db.execute("SELECT delegation_id, bound FROM spends WHERE NOT is_hold")
            spends = [(str(delegation), int(str(bound))) for delegation, bound in rows]
            total = int(str(db.execute("SELECT count(*) FROM delegations").get))
    finally:
        db.close()
    owners = WorkerRegistry(path.parent)
    living = {delegation for delegation, owner in owner_of.items() if owners.is_alive(owner)}
    orphans = owner_of.keys() - living
    in_flight = sum(bound for delegation, bound in spends if delegation not in living)
    if orphans or in_flight:
        yield warning(
            f"{_many(len(orphans), 'delegation')} left behind by a process that died, with ${format_usd(in_flight)} in "
            "flight at most: the next start settles that, and they can be resumed."
        )
    yield ok(f"The delegations {path}: {total} kept, {len(living)} running")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun} was" if count == 1 else f"{count} {noun}s were"


def prices(settings: Settings) -> Iterator[Finding]:
    """Check that the prices can be read, and that the default model has one and is still served."""
    try:
        book = PriceBook.load(settings.budget_prices, base_url=settings.anthropic_base_url)
    except ConfigurationError as exc:
        yield problem(exc.message)
        return
    for doubt in book.doubts:
        yield warning(doubt)
    try:
        note = book.lifecycle_note(settings.budget_model)
    except BudgetError as exc:
        yield problem(f"BUDGET_MODEL: {exc}")
        return
    retires_on = book.price(settings.budget_model).retires_on
    days = None if retires_on is None else (retires_on - datetime.now(UTC).date()).days
    if days is None or days > RETIREMENT_DAYS:
        yield ok(f"Prices of {len(book.models)} models; the default is {settings.budget_model}")
    else:
        yield (problem if days <= 0 else warning)(f"BUDGET_MODEL: {note.rstrip('.')}; set another.")
