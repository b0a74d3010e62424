"""The subject that somebody else runs: a Cycles server, given what a test needs through its admin API.

Each test has a fresh tenant there, which the client here calls by the name that the tests know it by.
"""

import copy
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Never

import httpx
from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse

from contract.harness import Authority, Clock

_TENANT_SETTINGS = {
    "default_overage_policy": "default_commit_overage_policy",
    "default_ttl_ms": "default_reservation_ttl_ms",
    "max_ttl_ms": "max_reservation_ttl_ms",
    "max_extensions": "max_reservation_extensions",
}


class CyclesServer:
    """The admin API of a Cycles server.

    Args:
        base_url: where its runtime API is.
        admin_url: where its admin API is.
        admin_key: what that asks for.
    """

    def __init__(self, *, base_url: str, admin_url: str, admin_key: str) -> None:
        self.base_url = base_url
        self._admin = httpx.Client(
            base_url=admin_url, headers={"X-Admin-API-Key": admin_key}, timeout=20, trust_env=False
        )

    def call(self, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """Make one call that must succeed."""
        response = self._admin.request(method, f"/v1/admin/{path}", json=body, params=query)
        assert response.is_success, (method, path, response.status_code, response.text)
        return dict(response.json())

    def use_once(self, secret: str, tenant: str) -> None:
        """Use a key for the first time, which takes long there: fifty callers at once would wait past their time."""
        headers, query = {"X-Cycles-API-Key": secret}, {"tenant": tenant}
        httpx.get(f"{self.base_url}/v1/balances", headers=headers, params=query, timeout=20, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._admin.close()


class ServerAuthority(Authority):
    """A Cycles server, and the ``runcycles`` client with a fresh tenant there under a known name."""

    subject = "server"

    def __init__(self, server: CyclesServer, directory: Path) -> None:
        super().__init__()
        self._server = server
        self._directory = directory
        self._clients: list[AsyncCyclesClient] = []
        self._begin()

    def _begin(self) -> None:
        self._there = f"{self.tenant}-{uuid.uuid4().hex[:12]}"
        self._settings: dict[str, object] = {}
        self._client: AsyncCyclesClient | None = None
        self._exists = False

    @property
    def client(self) -> AsyncCyclesClient:
        """What speaks to it."""
        if self._client is None:
            self._provision()
            key = self._server.call("POST", "api-keys", {"tenant_id": self._there, "name": "contract"})
            self.config = CyclesConfig(
                base_url=self._server.base_url,
                api_key=key["key_secret"],
                tenant=self.tenant,
                journal_dir=str(self._directory / "journal"),
            )
            self._server.use_once(key["key_secret"], self._there)
            self._client = _RenamingClient(self.config, here=self.tenant, there=self._there)
            self._clients.append(self._client)
        return self._client

    def as_tenant(self, tenant: str) -> "ServerAuthority":
        """Give the same authority to another tenant's client."""
        other = copy.copy(self)
        other.tenant = tenant
        other._begin()
        return other

    @property
    def clock(self) -> Clock:
        """Is not to be moved."""
        self._skip("clock")

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Is not to be had."""
        self._skip("sql", statement, *values)

    def set_budget(
        self,
        scope: str,
        allocated: int,
        *,
        unit: str = "TOKENS",
        spent: int = 0,
        debt: int = 0,
        overdraft_limit: int = 0,
        is_over_limit: bool = False,
        status: str = "ACTIVE",
        caps: Mapping[str, object] | None = None,
    ) -> None:
        """Give a scope a budget."""
        if spent or debt:
            self._skip("debt without a limit")
        if is_over_limit:
            self._skip("over-limit flag")
        if caps is not None:
            self._skip("caps")
        self._provision()
        body: dict[str, object] = {
            "tenant_id": self._there,
            "scope": self._scope(scope),
            "unit": unit,
            "allocated": {"unit": unit, "amount": allocated},
        }
        if overdraft_limit:
            body["overdraft_limit"] = {"unit": unit, "amount": overdraft_limit}
        self._server.call("POST", "budgets", body)
        if status != "ACTIVE":
            self._set_status(scope, unit, status)

    def change_budget(
        self,
        scope: str,
        *,
        allocated: int | None = None,
        overdraft_limit: int | None = None,
        is_over_limit: bool | None = None,
        status: str | None = None,
    ) -> None:
        """Change a scope's budget in TOKENS; what remains follows what is allocated."""
        unit = "TOKENS"
        if is_over_limit is not None:
            self._skip("over-limit flag")
        if allocated is not None:
            body: dict[str, object] = {"operation": "RESET", "amount": {"unit": unit, "amount": allocated}}
            scope_there = self._scope(scope)
            self._server.call("POST", "budgets/fund", body, tenant_id=self._there, scope=scope_there, unit=unit)
        if overdraft_limit is not None:
            limit = {"overdraft_limit": {"unit": unit, "amount": overdraft_limit}}
            self._server.call("PATCH", "budgets", limit, scope=self._scope(scope), unit=unit)
        if status is not None:
            self._set_status(scope, unit, status)

    def set_tenant(self, **columns: object) -> None:
        """Give the tenant settings of its own, named as in the ledger's table."""
        if "status" in columns:
            self._skip("closed tenant")
        if self._exists:
            self._skip("new tenant settings")
        self._settings |= {_TENANT_SETTINGS[name]: value for name, value in columns.items()}

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    def _provision(self) -> None:
        if not self._exists:
            self._exists = True
            self._server.call("POST", "tenants", {"tenant_id": self._there, "name": self._there, **self._settings})

    def _set_status(self, scope: str, unit: str, status: str) -> None:
        if status == "CLOSED":
            self._skip("closed budget")
        verb = {"FROZEN": "freeze", "ACTIVE": "unfreeze"}[status]
        self._server.call("POST", f"budgets/{verb}", scope=self._scope(scope), unit=unit)

    def _scope(self, scope: str) -> str:
        return scope.replace(f"tenant:{self.tenant}", f"tenant:{self._there}", 1)

    def _skip(self, capability: str, *_: object) -> Never:
        self.require(capability)
        raise AssertionError(f"differences.py says that the server has {capability}")


class _RenamingClient(AsyncCyclesClient):
    """Calls one tenant by another name, on the way out where a request names it and on the way back everywhere."""

    def __init__(self, config: CyclesConfig, *, here: str, there: str) -> None:
        super().__init__(config)
        self._here, self._there = here, there

    async def _post(self, path: str, body: BaseModel | dict[str, Any]) -> CyclesResponse:
        data: Any = body.model_dump(exclude_none=True) if isinstance(body, BaseModel) else body
        if isinstance(data, dict) and isinstance(data.get("subject"), dict):
            data = {**data, "subject": self._leaving(data["subject"])}
        return self._arriving(await super()._post(path, data))

    async def _get(self, path: str, params: dict[str, str] | None = None) -> CyclesResponse:
        return self._arriving(await super()._get(path, None if params is None else self._leaving(params)))

    def _leaving(self, named: dict[str, Any]) -> dict[str, Any]:
        return {**named, "tenant": self._there} if named.get("tenant") == self._here else named

    def _arriving(self, response: CyclesResponse) -> CyclesResponse:
        response.body = self._renamed(response.body)
        response.headers = self._renamed(response.headers)
        response.error_message = self._renamed(response.error_message)
        return response

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(self._there, self._here)
        if isinstance(value, dict):
            return {name: self._renamed(each) for name, each in value.items()}
        return [self._renamed(each) for each in value] if isinstance(value, list) else value
