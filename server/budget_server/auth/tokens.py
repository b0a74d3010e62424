"""Access tokens: each lets its holder spend a part of the budget, through some of the tools.

A secret is shown once and never stored: the file holds its SHA-256. A slow hash would add nothing, because a secret is
a random number of 192 bits and not a person's password. Tokens are revoked and never deleted: a server that has once
required a token continues to require one.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import apsw

from budget_server.auth.schema import ACCESS_KIND
from budget_server.database.file import DurableFile
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.ids import time_ordered_id

ACCESS_FILE = "access-tokens.sqlite3"
SECRET_PREFIX = "cbm_"  # noqa: S105 - how every one starts, so that it is known for what it is where it leaks
_SHOWN_CHARACTERS = len(SECRET_PREFIX) + 6


class Grant(NamedTuple):
    """The rights of a token."""

    levels: Mapping[str, str]
    """The levels it spends as, from the tenant down; a call may only narrow them."""
    tools: frozenset[str] | None = None
    """The only tools it may use; ``None`` for all."""
    ceiling_microcents: int | None = None
    """Most that each of its delegations may spend; ``None`` if only the budget limits them."""


class AccessToken(NamedTuple):
    """A row of ``access_tokens``, without the hash of its secret; times are epoch milliseconds."""

    token_id: str
    name: str
    prefix: str
    grant: Grant
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None

    def is_good(self, now_ms: int) -> bool:
        """Return whether the token is accepted at this time."""
        return self.revoked_at_ms is None and (self.expires_at_ms is None or self.expires_at_ms > now_ms)


_COLUMNS = "token_id, name, prefix, levels, tools, ceiling_microcents, created_at_ms, expires_at_ms, revoked_at_ms"


class Tokens:
    """The operations over an open connection, each within its caller's transaction (``database/file.py``)."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self.now_ms = 0

    def begin(self, wall_ms: int) -> bool:
        """Set the time of this transaction; nothing is ever due."""
        self.now_ms = wall_ms
        return False

    def remember_time(self) -> None:
        """Do nothing: no row depends on an earlier clock."""

    def create(self, grant: Grant, *, name: str, lifetime_ms: int | None) -> tuple[AccessToken, str]:
        """Create a token and return it with its secret, which is not stored."""
        secret = SECRET_PREFIX + secrets.token_urlsafe(24)
        expires_at_ms = None if lifetime_ms is None else self.now_ms + lifetime_ms
        token = AccessToken(
            time_ordered_id(), name, secret[:_SHOWN_CHARACTERS], grant, self.now_ms, expires_at_ms, None
        )
        self._db.execute(
            f"INSERT INTO access_tokens (secret_sha256, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            (
                _sha256(secret),
                token.token_id,
                name,
                token.prefix,
                json.dumps(dict(grant.levels)),
                None if grant.tools is None else json.dumps(sorted(grant.tools)),
                grant.ceiling_microcents,
                token.created_at_ms,
                expires_at_ms,
                None,
            ),
        )
        return token, secret

    def all(self) -> list[AccessToken]:
        """Return every token, oldest first."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM access_tokens ORDER BY created_at_ms, token_id")  # noqa: S608 - constants
        return [_token(row) for row in found]

    def revoke(self, token_id: str) -> AccessToken:
        """Revoke a token permanently, named by its id or by the start of its secret.

        Raises:
            InvalidArgumentError: no token or more than one has that name; nothing was written.
        """
        found = [token for token in self.all() if token_id in (token.token_id, token.prefix)]
        if len(found) != 1:
            what = "No token" if not found else "More than one token"
            raise InvalidArgumentError(f"{what} is called {token_id[:64]!r}: `token list` shows their ids.")
        (token,) = found
        self._db.execute(
            "UPDATE access_tokens SET revoked_at_ms = ? WHERE token_id = ? AND revoked_at_ms IS NULL",
            (self.now_ms, token.token_id),
        )
        return token._replace(revoked_at_ms=token.revoked_at_ms or self.now_ms)

    def good(self, secret: str) -> AccessToken | None:
        """Return the token of a secret, if it is accepted."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM access_tokens WHERE secret_sha256 = ?",  # noqa: S608 - constants
            (_sha256(secret),),
        ).fetchone()
        token = None if row is None else _token(row)
        return token if token is not None and token.is_good(self.now_ms) else None

    def any(self) -> bool:
        """Return whether a token has ever been created."""
        return bool(self._db.execute("SELECT EXISTS (SELECT 1 FROM access_tokens)").get)


def open_tokens(directory: Path) -> DurableFile[Tokens]:
    """Open the tokens of a data directory.

    Raises:
        ConfigurationError: the file cannot be used.
        StorageUnavailableError: another process held it past the deadline.
    """
    return DurableFile(directory / ACCESS_FILE, ACCESS_KIND, Tokens)


def _token(row: tuple[object, ...]) -> AccessToken:
    token_id, name, prefix, levels, tools, ceiling, created, expires, revoked = row
    grant = Grant(
        levels=json.loads(str(levels)),
        tools=None if tools is None else frozenset(json.loads(str(tools))),
        ceiling_microcents=_integer(ceiling),
    )
    created_at_ms = _integer(created)
    assert created_at_ms is not None
    return AccessToken(
        str(token_id), str(name), str(prefix), grant, created_at_ms, _integer(expires), _integer(revoked)
    )


def _integer(value: object) -> int | None:
    assert value is None or isinstance(value, int)
    return value


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
