"""What an operator does to budgets: people set them, tools only draw on them.

Each change is one operation of a transaction (``LedgerStore.run``), so it is whole or not there.
"""

import apsw

from budget_server.authority import balance, rows
from budget_server.authority.balance import Budget
from budget_server.authority.requests import MAX_AMOUNT
from budget_tools.errors import InvalidArgumentError
from budget_tools.scopes import LEVEL_VALUE, LEVELS


def root_scope(tenant: str) -> str:
    """Give the scope that everything of a tenant draws on."""
    return f"{LEVELS[0]}:{tenant.lower()}"


def parse_scope(text: str, tenant: str) -> str:
    """Read a scope path such as ``tenant:local/agent:bot``; empty means the tenant's root.

    Raises:
        InvalidArgumentError: not a path of the known levels in their order, below this tenant.
    """
    if not text:
        return root_scope(tenant)
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
    if scope.split("/")[0] != root_scope(tenant):
        raise InvalidArgumentError(
            f"{text!r} is not below {root_scope(tenant)}: a ledger's budgets belong to its tenant."
        )
    return scope


def allocate_first(db: apsw.Connection, *, tenant: str, unit: str, amount: int) -> int | None:
    """Give a tenant's root scope its first budget.

    Returns:
        The amount already allocated where there was a budget before, which then stays as it is; else ``None``.
    """
    existing = _find(db, root_scope(tenant), unit)
    if existing is not None:
        return existing.allocated
    _insert(db, root_scope(tenant), tenant, unit, amount)
    return None


def allocate(db: apsw.Connection, *, scope: str, tenant: str, unit: str, amount: int) -> Budget:
    """Set what is allocated to a scope, creating its budget where there is none.

    Raises:
        InvalidArgumentError: less than is already spent, held or owed; nothing was written.
    """
    budget = _find(db, scope, unit)
    if budget is None:
        return _insert(db, scope, tenant, unit, amount)
    in_use = budget.spent + budget.reserved + budget.debt
    if amount < in_use:
        raise InvalidArgumentError(
            f"{scope} has already used {in_use} {unit} (spent, held and owed): allocate at least that, or freeze it."
        )
    budget.allocate(amount)
    rows.save_budget(db, budget)
    return budget


def fund(db: apsw.Connection, *, scope: str, unit: str, amount: int) -> Budget:
    """Add to what is allocated; a debt is repaid from it first, and stays visible as spent.

    Raises:
        InvalidArgumentError: there is no such budget, or it would leave the 64-bit range; nothing was written.
    """
    budget = _require(db, scope, unit)
    if budget.allocated + amount > MAX_AMOUNT:
        raise InvalidArgumentError(f"{scope} cannot hold so much: at most {MAX_AMOUNT} {unit} can be allocated.")
    budget.fund(amount)
    rows.save_budget(db, budget)
    return budget


def set_status(db: apsw.Connection, *, scope: str, unit: str, status: str) -> Budget:
    """Freeze (``FROZEN``), unfreeze (``ACTIVE``) or close (``CLOSED``) a budget; what is held can still be settled.

    Raises:
        InvalidArgumentError: there is no such budget, or it is closed, which is for good; nothing was written.
    """
    budget = _require(db, scope, unit)
    if budget.status == "CLOSED":
        raise InvalidArgumentError(f"The budget of {scope} in {unit} is closed, which is for good.")
    budget.status = status
    rows.save_budget(db, budget)
    return budget


def all_budgets(db: apsw.Connection, tenant: str) -> list[Budget]:
    """Give every budget of a tenant, by scope and unit."""
    found = db.execute(
        f"SELECT {balance.COLUMNS} FROM budgets WHERE tenant = ? ORDER BY scope, unit",  # noqa: S608 - constants
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
    return budget


def _insert(db: apsw.Connection, scope: str, tenant: str, unit: str, amount: int) -> Budget:
    rows.insert(db, "budgets", scope=scope, unit=unit, tenant=tenant, allocated=amount, remaining=amount)
    return _require(db, scope, unit)
