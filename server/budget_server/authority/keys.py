"""API keys of the HTTP interface: a person creates them on the command line, each bound to a tenant.

A secret is shown once and never stored: the ledger holds its SHA-256. A slow hash would add nothing, because a secret
is 192 random bits and not a person's password.
"""

import hashlib
import secrets
from typing import NamedTuple

import apsw

from budget_server.authority import rows, tenants
from budget_server.authority.refusals import Refusal
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.ids import time_ordered_id

SECRET_PREFIX = "cyc_live_"  # noqa: S105 - how every Cycles key starts
_SHOWN_CHARACTERS = len(SECRET_PREFIX) + 5


class ApiKey(NamedTuple):
    """A row of ``api_keys``, without the hash of its secret; times are epoch milliseconds."""

    key_id: str
    tenant: str
    name: str
    prefix: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


_COLUMNS = ", ".join(ApiKey._fields)


def create(
    db: apsw.Connection, *, tenant: str, name: str, now_ms: int, expires_at_ms: int | None
) -> tuple[ApiKey, str]:
    """Create a key and return it with its secret, which is not stored."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(24)
    key = ApiKey(time_ordered_id(), tenant, name, secret[:_SHOWN_CHARACTERS], now_ms, expires_at_ms, None)
    rows.insert(db, "api_keys", **key._asdict(), secret_sha256=_sha256(secret))
    return key, secret


def all_keys(db: apsw.Connection) -> list[ApiKey]:
    """Return every key, oldest first."""
    return [ApiKey(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at_ms, key_id")]  # noqa: S608 - constants


def revoke(db: apsw.Connection, key_id: str, now_ms: int) -> ApiKey:
    """Revoke a key permanently, named by its id or by the start of its secret.

    Raises:
        InvalidArgumentError: no key or more than one has that name; nothing was written.
    """
    found = [key for key in all_keys(db) if key_id in (key.key_id, key.prefix)]
    if len(found) != 1:
        what = "No API key" if not found else "More than one API key"
        raise InvalidArgumentError(f"{what} is called {key_id!r}: `authority key list` shows their ids.")
    (key,) = found
    db.execute("UPDATE api_keys SET revoked_at_ms = ? WHERE key_id = ? AND revoked_at_ms IS NULL", (now_ms, key.key_id))
    return key._replace(revoked_at_ms=key.revoked_at_ms or now_ms)


def tenant_of(db: apsw.Connection, secret: str, now_ms: int) -> str:
    """Return the tenant of a secret.

    Raises:
        Refusal: 401 UNAUTHORIZED, with the reason that the reference server gives.
    """
    if not secret:
        raise _unauthorized("Missing API key: send it as X-Cycles-API-Key")
    row = db.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE secret_sha256 = ?", (_sha256(secret),)).fetchone()  # noqa: S608 - constants
    if row is None:
        raise _unauthorized("KEY_NOT_FOUND: no key has this secret")
    key = ApiKey(*row)
    if key.revoked_at_ms is not None:
        raise _unauthorized("KEY_REVOKED: this key was revoked")
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise _unauthorized("KEY_EXPIRED: this key has expired")
    if tenants.load(db, key.tenant).status == "SUSPENDED":
        raise _unauthorized("TENANT_SUSPENDED: the tenant of this key is suspended")
    return key.tenant


def _unauthorized(reason: str) -> Refusal:
    return Refusal(401, "UNAUTHORIZED", f"{reason}; `cycles-budget-mcp authority key create` makes a new one.")


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
