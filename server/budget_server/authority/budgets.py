"""What an operator does to budgets; people set them, tools only draw on them."""

import apsw

from budget_tools.scopes import LEVELS


def allocate_first(db: apsw.Connection, *, tenant: str, unit: str, amount: int) -> int | None:
    """Give a tenant's root scope its first budget.

    Returns:
        The amount already allocated where there was a budget before, which then stays as it is; else ``None``.
    """
    scope = f"{LEVELS[0]}:{tenant.lower()}"
    existing = db.execute("SELECT allocated FROM budgets WHERE scope = ? AND unit = ?", (scope, unit)).fetchone()
    if existing is not None:
        return int(existing[0])
    db.execute(
        "INSERT INTO budgets (scope, unit, tenant, allocated, remaining) VALUES (?, ?, ?, ?, ?)",
        (scope, unit, tenant, amount, amount),
    )
    return None
