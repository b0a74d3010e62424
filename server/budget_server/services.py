"""The composition root: builds the services of the tools, once per process, each when it is first needed.

It lives outside any connection's lifespan, because the SDK enters that once per SSE client.
"""

import logging
from functools import cached_property
from typing import TYPE_CHECKING

from budget_server.authority.budgets import all_budgets, allocate_first
from budget_server.authority.refusals import LedgerUnavailableError
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.config.settings import Settings
from budget_tools.core.errors import ConfigurationError
from budget_tools.core.money import USD_MICROCENTS, format_usd
from budget_tools.core.network import check_route
from budget_tools.core.subjects import Subject

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient, CyclesConfig

    from budget_server.authority.client import EmbeddedCyclesClient
    from budget_tools.claude.client import Claude
    from budget_tools.delegation.runner import DelegationRunner
    from budget_tools.delegation.store import DelegationStore
    from budget_tools.mcp_tools.toolkit import Raising
    from budget_tools.pricing.book import PriceBook
    from budget_tools.spends.settlement import Journal, Reservations, Settler
    from budget_tools.subagent_tools.toolbox import Toolbox

logger = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 1_000
"""Number of repeats of a commit while the authority is absent, half a minute apart: a working day.

The journal keeps the commit for the next start, but until then a Cycles server would give the money back.
"""

EMBEDDED_TIMEOUT_SECONDS = 0.1
"""The time that the client library allows for one attempt; its heartbeat derives its lead from it."""


class Services:
    """Everything that a tool may use of this process (the tools' ``Toolkit``).

    Raises:
        ConfigurationError: the ledger, the tools file or the price file cannot be used; raised at start, not at the
            first call.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.subject: Subject = settings.subject
        self.ceiling_microcents: int | None = None
        self.confirm_above_microcents: int | None = settings.budget_confirm_usd
        self.default_model: str = settings.budget_model
        self.detaches: bool = settings.budget_on_disconnect == "detach"
        self.has_claude: bool = settings.claude_endpoint.has_credential
        if settings.is_remote:
            check_route(settings.cycles_base_url)
        if self.has_claude:
            _warn_of_the_way(settings)
        self._store = None if settings.is_remote else open_ledger(settings)
        if settings.budget_subagent_servers is not None:
            _ = self.toolbox  # read now: a person looks at the log of the start
        if settings.budget_prices is not None:
            _ = self.prices  # likewise; without the user's own table, a start need not wait for the price data

    @cached_property
    def cycles(self) -> "AsyncCyclesClient":
        """The budget authority."""
        if self._store is None:
            from budget_server.authority.remote import (
                RemoteCyclesClient,
            )  # here: an import of 200 ms that no start should wait for

            return RemoteCyclesClient(self._cycles_config)
        from budget_server.authority.client import EmbeddedCyclesClient
        from budget_server.database.writer import Writer

        return EmbeddedCyclesClient(Writer(self._store), self._cycles_config)

    def cycles_for(self, tenant: str) -> "AsyncCyclesClient":
        """Return the authority for a tenant.

        Raises:
            ConfigurationError: a Cycles server holds the budgets, and its key belongs to another tenant.
        """
        if tenant == self.subject.tenant:
            return self.cycles
        embedded = self._embedded
        if embedded is None:
            raise ConfigurationError(
                "This token is for another tenant than CYCLES_API_KEY: a person has to make a new one."
            )
        return embedded.for_tenant(tenant)

    @property
    def _embedded(self) -> "EmbeddedCyclesClient | None":
        if self._store is None:
            return None
        from budget_server.authority.client import EmbeddedCyclesClient

        assert isinstance(self.cycles, EmbeddedCyclesClient)
        return self.cycles

    @property
    def raising(self) -> "Raising | None":
        """The budget that a person may be asked to raise, if any; budgets of a Cycles server are raised there."""
        most, embedded = self._settings.budget_raise_to_usd, self._embedded
        if most is None or embedded is None:
            return None
        from budget_server.authority.raising import RootBudget

        return RootBudget(embedded.ledger, self.subject.tenant, most)

    @cached_property
    def internal_client(self) -> "AsyncCyclesClient":
        """The authority for this process's own operations, on behalf of the tenant of each delegation it runs."""
        embedded = self._embedded
        return self.cycles if embedded is None else embedded.for_all_tenants()

    @property
    def settler(self) -> "Settler":
        """The settler of known spend, which settles it even if the answer is lost."""
        return self.settler_for(self.cycles)

    def settler_for(self, cycles: "AsyncCyclesClient") -> "Settler":
        """Return the settler that uses a tenant's view of the authority."""
        from budget_tools.spends.settlement import Settler

        return Settler(cycles, self._reservations, self._journal if self._store is None else None)

    @cached_property
    def _reservations(self) -> "Reservations":
        from budget_tools.spends.settlement import Reservations

        return Reservations()

    @cached_property
    def _journal(self) -> "Journal":
        from budget_tools.spends.settlement import Journal
        from budget_tools.spends.spend_client import SpendClient

        return Journal(self._cycles_config, SpendClient(self.internal_client))

    @property
    def _cycles_config(self) -> "CyclesConfig":
        from runcycles import CyclesConfig

        levels = self.subject.levels
        config = CyclesConfig(
            base_url=self._settings.cycles_base_url or f"embedded://{LEDGER_FILE}",
            api_key=self._settings.cycles_api_key.get_secret_value() or "embedded",
            tenant=levels["tenant"],
            workspace=levels.get("workspace"),
            app=levels.get("app"),
            workflow=levels.get("workflow"),
            agent=levels.get("agent"),
            toolset=levels.get("toolset"),
            journal_dir=str(self._settings.budget_data_dir / JOURNAL_DIRECTORY),
            retry_max_attempts=COMMIT_ATTEMPTS,
        )
        if not self._settings.is_remote:
            config.connect_timeout = config.read_timeout = EMBEDDED_TIMEOUT_SECONDS
        return config

    @cached_property
    def prices(self) -> "PriceBook":
        """The prices in force."""
        from budget_tools.pricing.book import PriceBook

        book = PriceBook.load(self._settings.budget_prices, base_url=self._settings.anthropic_base_url)
        for doubt in book.doubts:
            logger.warning("%s", doubt)
        return book

    @cached_property
    def claude(self) -> "Claude":
        """The gated Messages client.

        Raises:
            ConfigurationError: no credential is set, or a proxy or certificate setting cannot be used.
        """
        if not self.has_claude:
            raise ConfigurationError(
                "ANTHROPIC_API_KEY is not set, nor is ANTHROPIC_AUTH_TOKEN, so nothing can be delegated: "
                "add one of them to this server's environment and restart."
            )
        from budget_tools.claude.client import Claude  # imports anthropic, about a second

        return Claude(self._settings.claude_endpoint)

    @cached_property
    def toolbox(self) -> "Toolbox":
        """The MCP servers whose tools a delegation may be given."""
        from budget_tools.subagent_tools.toolbox import Toolbox

        return Toolbox.load(
            self._settings.budget_subagent_servers,
            child_environment={"BUDGET_DEPTH": str(self._settings.budget_depth + 1)},
        )

    @cached_property
    def delegation_store(self) -> "DelegationStore":
        """The store of delegations."""
        from budget_server.delegations.store import SqliteDelegationStore

        return SqliteDelegationStore(
            self._settings.budget_data_dir,
            max_running=self._settings.budget_max_delegations,
            max_depth=self._settings.budget_max_depth,
        )

    @cached_property
    def delegations(self) -> "DelegationRunner":
        """The delegations of this process."""
        from budget_tools.delegation.runner import DelegationRunner

        return DelegationRunner(
            cycles=self.internal_client,
            claude=lambda: self.claude,
            prices=self.prices,
            toolbox=self.toolbox,
            store=self.delegation_store,
            depth=self._settings.budget_depth,
            max_seconds=60.0 * self._settings.budget_delegation_minutes,
            keep_days=self._settings.budget_keep_days,
        )

    async def periods(self, tenant: str = "") -> dict[tuple[str, str], str]:
        """Return how often a tenant's budgets reset, by default this server's own; empty for a Cycles server."""
        if self._store is None:
            return {}
        from budget_server.authority.client import EmbeddedCyclesClient

        assert isinstance(self.cycles, EmbeddedCyclesClient)
        found = await self.cycles.ledger.run(lambda ledger: all_budgets(ledger.db, tenant or self.subject.tenant))
        return {(budget.scope, budget.unit): budget.period for budget in found}

    async def check_authority(self) -> None:
        """Check that the budget authority answers.

        Raises:
            AuthorityError: it refuses this server, or does not answer.
        """
        from budget_tools.spends.responses import body_of

        body_of(await self.cycles.get_balances(tenant=self.subject.tenant), "ask for balances")

    async def settle_orphans(self) -> None:
        """Settle the remains of earlier processes: unanswered commits, and delegations of killed processes."""
        from budget_server.delegations.workers import may_have_orphans

        if any((self._settings.budget_data_dir / JOURNAL_DIRECTORY).rglob("*.json")):
            _ = self._journal  # otherwise the client library repeats them only with the first new turn
        if may_have_orphans(self._settings.budget_data_dir):
            await self.delegations.keep_settling_orphans()

    async def aclose(self) -> None:
        """Settle running work, then close everything that was opened."""
        made = self.__dict__
        if "delegations" in made:
            await self.delegations.aclose()
        elif "delegation_store" in made:
            await self.delegation_store.aclose()
        if "toolbox" in made:
            await self.toolbox.aclose()
        if "claude" in made:
            await self.claude.aclose()
        if "cycles" in made:
            await self.cycles.aclose()
        elif self._store is not None:
            self._store.close()


def _warn_of_the_way(settings: Settings) -> None:
    """Log faults that will keep requests from the Claude API; all else works without it, so the start goes on."""
    try:
        check_route(settings.anthropic_base_url)
    except ConfigurationError as exc:
        logger.warning("Nothing can be delegated: %s", exc.message)


def open_ledger(settings: Settings) -> LedgerStore:
    """Open this machine's ledger, giving a new one its first budget.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        return _open_with_first_budget(settings)
    except LedgerUnavailableError as exc:
        raise ConfigurationError(str(exc)) from exc


def _open_with_first_budget(settings: Settings) -> LedgerStore:
    store = LedgerStore(settings.budget_data_dir / LEDGER_FILE)
    amount, period = settings.budget_usd, settings.budget_period
    if amount is None:
        return store
    tenant = settings.subject.tenant
    time_zone = "UTC" if period == "none" else settings.time_zone
    before = store.run(
        lambda ledger: allocate_first(
            ledger.db,
            tenant=tenant,
            unit=USD_MICROCENTS,
            amount=amount,
            period=period,
            time_zone=time_zone,
            now_ms=ledger.now_ms,
        )
    )
    if before is not None and (before.allocated, before.period) != (amount, period):
        logger.warning(
            "BUDGET_USD=%s%s is ignored: the budget in %s is %s USD%s already; `cycles-budget-mcp budget` changes it",
            format_usd(amount),
            "" if period == "none" else f" per {period}",
            store.path,
            format_usd(before.allocated),
            "" if before.period == "none" else f" per {before.period}",
        )
    return store
