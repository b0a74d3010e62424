"""The token file's table, and the migrations that create it (``database/schema.py``)."""

import apsw

from budget_server.database.schema import FileKind


def _m001_access_tokens(db: apsw.Connection) -> None:
    db.execute(
        """
        CREATE TABLE access_tokens (
            token_id TEXT PRIMARY KEY,
            secret_sha256 BLOB NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
            name TEXT NOT NULL,
            prefix TEXT NOT NULL,        -- how its secret starts, for people
            levels TEXT NOT NULL,        -- JSON: whose budget, from the tenant down
            tools TEXT,                  -- JSON: the only tools it may use; NULL for all
            ceiling_microcents INTEGER CHECK (ceiling_microcents >= 0),  -- of each delegation
            created_at_ms INTEGER NOT NULL,
            expires_at_ms INTEGER,
            revoked_at_ms INTEGER
        ) STRICT;
        """
    )


ACCESS_KIND = FileKind(
    noun="token store",
    contents="access tokens",
    application_id=0x43594131,  # CYA1
    migrations=(_m001_access_tokens,),
)
