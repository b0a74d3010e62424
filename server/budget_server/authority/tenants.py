"""A tenant and the defaults of its reservations; a tenant without a row has the protocol's."""

from typing import NamedTuple

import apsw

from budget_server.authority.refusals import Refusal, deny_detail
from budget_server.authority.requests import OveragePolicy
from budget_tools.core.scopes import LEVELS


class Tenant(NamedTuple):
    """A row of ``tenants``, in the order of its columns."""

    tenant: str
    status: str = "ACTIVE"
    default_overage_policy: OveragePolicy = "ALLOW_IF_AVAILABLE"
    default_ttl_ms: int = 60_000
    max_ttl_ms: int = 3_600_000
    max_extensions: int = 10

    def refuse_closed(self) -> None:
        """Refuse every change once the tenant is closed; reads are still allowed.

        Raises:
            Refusal: 409 TENANT_CLOSED.
        """
        if self.status == "CLOSED":
            raise Refusal(
                409,
                "TENANT_CLOSED",
                f"Tenant {self.tenant} is closed.",
                deny_detail(
                    "TENANT_CLOSED", "Use another tenant.", blocked_by_scope=f"{LEVELS[0]}:{self.tenant.lower()}"
                ),
            )


_COLUMNS = ", ".join(Tenant._fields)


def load(db: apsw.Connection, tenant: str) -> Tenant:
    """Read a tenant's row, or return the defaults."""
    row = db.execute(f"SELECT {_COLUMNS} FROM tenants WHERE tenant = ?", (tenant,)).fetchone()  # noqa: S608 - constants
    return Tenant(*row) if row is not None else Tenant(tenant)
