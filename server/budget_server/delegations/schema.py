"""The delegations file's tables, and the migrations that create them (``database/schema.py``)."""

import apsw

from budget_server.database.schema import FileKind


def _m001_delegations(db: apsw.Connection) -> None:
    db.execute(
        """
        CREATE TABLE delegations (
            delegation_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            parent_id TEXT CHECK (parent_id <> delegation_id),  -- may be one that is stored elsewhere, or forgotten
            depth INTEGER NOT NULL CHECK (depth > 0),
            status TEXT NOT NULL CHECK (status IN
                ('completed', 'running', 'budget_exhausted', 'max_turns', 'cancelled', 'refused', 'failed')),
            owner TEXT,                  -- the process that runs it (owners.py)
            is_cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (is_cancel_requested IN (0, 1)),
            budget_microcents INTEGER CHECK (budget_microcents >= 0),   -- its own limit, which resuming may change
            max_turns INTEGER NOT NULL,  -- the same
            spent_microcents INTEGER NOT NULL DEFAULT 0 CHECK (spent_microcents >= 0),
            created_at_ms INTEGER NOT NULL,
            updated_at_ms INTEGER NOT NULL CHECK (updated_at_ms >= created_at_ms),
            model TEXT NOT NULL,
            hint TEXT NOT NULL DEFAULT '""',   -- JSON, as all that follows: a model may say what is no Unicode
            structured TEXT,
            text TEXT NOT NULL DEFAULT '""',
            task TEXT NOT NULL,
            CHECK ((status = 'running') = (owner IS NOT NULL)),
            CHECK (owner IS NOT NULL OR NOT is_cancel_requested)
        ) STRICT;
        CREATE INDEX delegations_by_creation ON delegations (tenant, created_at_ms, delegation_id);
        CREATE INDEX delegations_by_parent ON delegations (parent_id) WHERE parent_id IS NOT NULL;
        CREATE INDEX delegations_by_owner ON delegations (owner) WHERE owner IS NOT NULL;

        CREATE TABLE calls (             -- whoever repeats one joins what it started or resumed
            tenant TEXT NOT NULL,
            idempotency_key TEXT NOT NULL,
            request_sha256 BLOB NOT NULL,
            delegation_id TEXT NOT NULL REFERENCES delegations ON DELETE CASCADE,
            PRIMARY KEY (tenant, idempotency_key)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX calls_by_delegation ON calls (delegation_id);

        CREATE TABLE turns (
            delegation_id TEXT NOT NULL REFERENCES delegations ON DELETE CASCADE,
            number INTEGER NOT NULL,
            record TEXT NOT NULL,        -- JSON, a TurnRecord
            PRIMARY KEY (delegation_id, number)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE messages (          -- rows apart from their keys: one may take megabytes
            delegation_id TEXT NOT NULL REFERENCES delegations ON DELETE CASCADE,
            position INTEGER NOT NULL CHECK (position >= 0),
            starts_anew INTEGER NOT NULL CHECK (starts_anew IN (0, 1)),
            role TEXT NOT NULL,
            content TEXT NOT NULL,       -- JSON, as the Messages API takes it
            PRIMARY KEY (delegation_id, position)
        ) STRICT;
        CREATE INDEX messages_that_start_anew ON messages (delegation_id, position) WHERE starts_anew;

        CREATE TABLE spends (            -- written before they may happen, struck out once they are settled
            delegation_id TEXT NOT NULL REFERENCES delegations ON DELETE CASCADE,
            reservation_id TEXT NOT NULL,
            turn INTEGER NOT NULL,
            idempotency_key TEXT NOT NULL,   -- of the reserve
            subject TEXT NOT NULL,       -- JSON, the protocol's Subject
            action TEXT NOT NULL,        -- JSON, the protocol's Action
            unit TEXT NOT NULL,
            bound INTEGER NOT NULL CHECK (bound >= 0),
            is_hold INTEGER NOT NULL CHECK (is_hold IN (0, 1)),
            charge INTEGER CHECK (charge >= 0),
            metadata TEXT NOT NULL,      -- JSON
            PRIMARY KEY (delegation_id, reservation_id)
        ) STRICT, WITHOUT ROWID;
        """
    )


DELEGATIONS_KIND = FileKind(
    noun="delegation store",
    contents="delegations",
    application_id=0x43594431,  # CYD1
    migrations=(_m001_delegations,),
    # Every paid step of a delegation ends in a message; other lost writes are repaired at the next start.
    high_water=(
        "SELECT (SELECT coalesce(max(rowid), 0) FROM delegations), (SELECT coalesce(max(rowid), 0) FROM messages)"
    ),
)
