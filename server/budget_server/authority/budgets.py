"""Operator changes to budgets: people set them, tools only draw on them.

Each change is one operation of a transaction (``LedgerStore.run``), so it is applied as a whole or not at all.
"""

import json

import apsw

from budget_server.authority import balance, rows
from budget_server.authority.balance import Budget
from budget_server.authority.periods import period_end_ms
from budget_server.authority.refusals import Refusal
from budget_server.authority.requests import MAX_AMOUNT, Caps, json_text, parse, plain
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.scopes import LEVEL_VALUE, LEVELS


def root_scope(tenant: str) -> str:
    """Return the scope that all spend of a tenant draws on."""
    return f"{LEVELS[0]}:{tenant.lower()}"


def parse_scope(text: str, tenant: str) -> tuple[str, str]:
    """Read a scope path such as ``tenant:local/agent:bot``; empty means the root of ``tenant``.

    Returns:
        The path and its tenant.

    Raises:
        InvalidArgumentError: it is not a path of the known levels in their order, below a tenant.
    """
    if not text:
        return root_scope(tenant), tenant
    segments = [segment.partition(":") for segment in text.split("/")]
    levels = [level for level, _, _ in segments]
    if (
        levels != sorted(levels, key=lambda level: LEVELS.index(level) if level in LEVELS else len(LEVELS))
        or len(set(levels)) != len(levels)
        or not set(levels) <= set(LEVELS)
        or not all(LEVEL_VALUE.fullmatch(value) for _, _, value in segments)
    ):
        raise InvalidArgumentError(
            f"{text!r} is no scope: write level:value, joined by '/', in the order {', '.join(LEVELS)}."
        )
    scope = text.lower()
    root = scope.split("/")[0]
    if root == root_scope(tenant):
        return scope, tenant
    if levels[0] != LEVELS[0]:
        raise InvalidArgumentError(f"{text!r} is not below a tenant: begin it with {root_scope(tenant)}/.")
    return scope, root.partition(":")[2]


def allocate_first(
    db: apsw.Connection,
    *,
    tenant: str,
    unit: str,
    amount: int,
    period: str = "none",
    time_zone: str = "UTC",
    now_ms: int = 0,
) -> Budget | None:
    """Create a tenant's first budget, at its root scope, which resets with every period.

    Returns:
        The budget that existed before, which then stays unchanged; else ``None``.
    """
    scope = root_scope(tenant)
    existing = _find(db, scope, unit)
    if existing is None:
        _insert(db, scope, tenant, unit, amount)
        set_period(db, scope=scope, unit=unit, period=period, time_zone=time_zone, now_ms=now_ms)
    return existing


def allocate(db: apsw.Connection, *, scope: str, tenant: str, unit: str, amount: int) -> Budget:
    """Set the allocation of a scope, creating its budget if it does not exist.

    Raises:
        InvalidArgumentError: the amount is less than is already spent, reserved or owed, or the budget is closed;
            nothing was written.
    """
    if _find(db, scope, unit) is None:
        return _insert(db, scope, tenant, unit, amount)
    budget = _require(db, scope, unit)
    in_use = budget.spent + budget.reserved + budget.debt
    if amount < in_use:
        raise InvalidArgumentError(
            f"{scope} has already used {in_use} {unit} (spent, held and owed): allocate at least that, or freeze it."
        )
    budget.allocate(amount)
    rows.save_budget(db, budget)
    return budget


def raise_to(db: apsw.Connection, *, scope: str, unit: str, amount: int) -> Budget:
    """Raise the allocation to this amount; a budget that is higher stays unchanged.

    Raises:
        InvalidArgumentError: the budget does not exist or is closed; nothing was written.
    """
    budget = _require(db, scope, unit)
    if amount > budget.allocated:
        budget.allocate(amount)
        rows.save_budget(db, budget)
    return budget


def fund(db: apsw.Connection, *, scope: str, unit: str, amount: int) -> Budget:
    """Add to the allocation; it repays a debt first, which stays visible as spent.

    Raises:
        InvalidArgumentError: the budget does not exist, is closed, or would leave the 64-bit range; nothing was
            written.
    """
    budget = _require(db, scope, unit)
    if budget.allocated + amount > MAX_AMOUNT:
        raise InvalidArgumentError(f"{scope} cannot hold so much: at most {MAX_AMOUNT} {unit} can be allocated.")
    budget.fund(amount)
    rows.save_budget(db, budget)
    return budget


def clear_uncovered(db: apsw.Connection, *, scope: str, unit: str) -> tuple[int, Budget]:
    """Clear the uncovered spend of a budget, because a person has seen it; no money moves.

    Returns:
        The amount cleared, and the budget.

    Raises:
        InvalidArgumentError: the budget does not exist; nothing was written.
    """
    budget = _find(db, scope, unit)
    if budget is None:
        raise InvalidArgumentError(f"{scope} has no budget in {unit}: allocate one first.")
    seen = budget.uncovered
    budget.clear_uncovered()
    rows.save_budget(db, budget)
    return seen, budget


def set_period(db: apsw.Connection, *, scope: str, unit: str, period: str, time_zone: str, now_ms: int) -> Budget:
    """Set how often a budget resets, first at the end of the current calendar period; ``none`` is never.

    Raises:
        InvalidArgumentError: the budget does not exist or is closed; nothing was written.
    """
    budget = _require(db, scope, unit)
    budget.period, budget.time_zone = period, time_zone
    budget.period_end_ms = period_end_ms(period, time_zone, now_ms)
    rows.save_terms(db, budget)
    return budget


def limit_debt(db: apsw.Connection, *, scope: str, unit: str, overdraft_limit: int) -> Budget:
    """Set how much a budget may owe; 0 forbids debt.

    Raises:
        InvalidArgumentError: the budget does not exist or is closed; nothing was written.
    """
    budget = _require(db, scope, unit)
    budget.limit_debt(overdraft_limit)
    rows.save_budget(db, budget)
    rows.save_terms(db, budget)
    return budget


def set_caps(db: apsw.Connection, *, scope: str, unit: str, caps: str | None) -> Budget:
    """Set or remove the caps sent with an ALLOW if this budget is the deepest (see ``parse_caps``).

    Raises:
        InvalidArgumentError: the budget does not exist or is closed; nothing was written.
    """
    budget = _require(db, scope, unit)
    budget.caps = caps
    rows.save_terms(db, budget)
    return budget


def parse_caps(text: str) -> str | None:
    """Read the protocol's Caps from JSON; empty text, or an object that caps nothing, means no caps.

    Raises:
        InvalidArgumentError: the text is not such JSON.
    """
    if not text.strip():
        return None
    try:
        caps = plain(parse(Caps, json.loads(text)))
    except Refusal as refusal:
        raise InvalidArgumentError(
            f"The caps are wrong: {refusal.message.removeprefix('Validation failed: ')}."
        ) from refusal
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError('The caps must be JSON, such as {"max_tokens": 2000}.') from exc
    # An empty list restricts nothing (Cycles v0, Caps), but the client library reads an empty allowlist as deny-all.
    caps = {name: value for name, value in caps.items() if value != []}
    return json_text(caps) if caps else None


def set_status(db: apsw.Connection, *, scope: str, unit: str, status: str) -> Budget:
    """Freeze (``FROZEN``), unfreeze (``ACTIVE``) or close (``CLOSED``) a budget; its reservations can still be settled.

    Raises:
        InvalidArgumentError: the budget does not exist or is closed; nothing was written.
    """
    budget = _require(db, scope, unit)
    budget.status = status
    rows.save_budget(db, budget)
    if status == "CLOSED":
        budget.period, budget.period_end_ms = "none", None
        rows.save_terms(db, budget)
    return budget


def all_budgets(db: apsw.Connection, tenant: str = "") -> list[Budget]:
    """Return every budget of the ledger, or of one tenant, by scope and unit."""
    found = db.execute(
        f"SELECT {balance.COLUMNS} FROM budgets WHERE ?1 IN ('', tenant) ORDER BY scope, unit",  # noqa: S608 - constants
        (tenant,),
    )
    return [Budget(*row) for row in found]


def _find(db: apsw.Connection, scope: str, unit: str) -> Budget | None:
    found = rows.find_budgets(db, [scope], unit)
    return found[0] if found else None


def _require(db: apsw.Connection, scope: str, unit: str) -> Budget:
    budget = _find(db, scope, unit)
    if budget is None:
        raise InvalidArgumentError(f"{scope} has no budget in {unit}: allocate one first.")
    if budget.status == "CLOSED":
        raise InvalidArgumentError(f"The budget of {scope} in {unit} is closed, which is for good.")
    return budget


def _insert(db: apsw.Connection, scope: str, tenant: str, unit: str, amount: int) -> Budget:
    rows.insert(db, "budgets", scope=scope, unit=unit, tenant=tenant, allocated=amount, remaining=amount)
    return _require(db, scope, unit)
