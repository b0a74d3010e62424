"""The budget that a person may raise from a dialog: a tenant's root budget in dollars (the tools' ``Raising``)."""

from budget_server.authority import budgets, replay, rows
from budget_server.authority.balance import check_reservable
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import Refusal
from budget_server.authority.requests import DecideRequest, parse
from budget_server.database.asynchronous import AsyncFile
from budget_tools.core.ids import time_ordered_id
from budget_tools.core.money import USD_MICROCENTS
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools.toolkit import Shortfall, Want


class RootBudget:
    """The root budget of a tenant; budgets below it were made narrower on purpose, and stay unchanged.

    Args:
        ledger: the ledger that holds it.
        tenant: the tenant it belongs to.
        most_microcents: the highest amount it may be raised to.
    """

    def __init__(self, ledger: AsyncFile[Ledger], tenant: str, most_microcents: int) -> None:
        self.most_microcents = most_microcents
        self._ledger = ledger
        self._tenant = tenant
        self._scope = budgets.root_scope(tenant)

    async def shortfall(self, spender: Subject, want: Want, idempotency_key: str = "") -> Shortfall | None:
        """Return how far it falls short; ``None`` if raising it would not help, or not suffice."""
        asked = {
            "idempotency_key": idempotency_key or time_ordered_id(),
            "subject": spender.wire(),
            "action": dict(want.action),
            "estimate": {"unit": USD_MICROCENTS, "amount": want.least_microcents},
        }
        try:
            request = parse(DecideRequest, asked)
        except Refusal:
            return None  # the reservation itself will report the fault
        return await self._ledger.run(lambda ledger: self._shortfall(ledger, request, want.microcents))

    def _shortfall(self, ledger: Ledger, request: DecideRequest, amount: int) -> Shortfall | None:
        if replay.is_answered(ledger.db, self._tenant, "reserve", request.idempotency_key):
            return None
        refusal = ledger.refusal(self._tenant, request)
        if refusal is None or refusal.code != "BUDGET_EXCEEDED":
            return None
        root, *below = rows.find_budgets(ledger.db, request.subject.scopes(), USD_MICROCENTS)
        in_use = root.allocated - root.remaining
        if root.scope != self._scope or in_use + request.estimate.amount > self.most_microcents:
            return None
        try:
            for budget in below:
                check_reservable(budget, request.estimate.amount)
        except Refusal:
            return None
        return Shortfall(
            allocated=root.allocated,
            remaining=root.remaining,
            raise_to=min(in_use + amount, self.most_microcents),
            period=root.period,
        )

    async def raise_to(self, allocated_microcents: int) -> None:
        """Raise it to this amount, up to the highest allowed; a budget that is higher stays unchanged.

        Raises:
            InvalidArgumentError: it is closed or no longer exists; nothing was changed.
        """
        amount = min(allocated_microcents, self.most_microcents)
        await self._ledger.run(
            lambda ledger: budgets.raise_to(ledger.db, scope=self._scope, unit=USD_MICROCENTS, amount=amount)
        )
