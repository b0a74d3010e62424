"""The ledger file's tables, and the migrations that create them.

Migrations are functions appended to ``MIGRATIONS`` and never edited once released; ``PRAGMA user_version`` counts them.
Every table is STRICT: a plain SQLite column would silently turn an integer past 64 bits into a float.
"""

import apsw

from budget_server.database.schema import FileKind, Migration

APPLICATION_ID = 0x43594C31
"""``CYL1`` in the SQLite header, so that a foreign database is not mistaken for a ledger."""


def _m001_ledger(db: apsw.Connection) -> None:
    db.execute(
        """
        CREATE TABLE clock (            -- one row: time never runs backwards within a ledger
            id INTEGER PRIMARY KEY CHECK (id = 1),
            now_ms INTEGER NOT NULL
        ) STRICT;
        INSERT INTO clock VALUES (1, 0);

        CREATE TABLE tenants (          -- absent = unrestricted, with the protocol's defaults
            tenant TEXT PRIMARY KEY,
            status TEXT NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED', 'CLOSED')),
            default_overage_policy TEXT NOT NULL DEFAULT 'ALLOW_IF_AVAILABLE'
                CHECK (default_overage_policy IN ('REJECT', 'ALLOW_IF_AVAILABLE', 'ALLOW_WITH_OVERDRAFT')),
            default_ttl_ms INTEGER NOT NULL DEFAULT 60000,
            max_ttl_ms INTEGER NOT NULL DEFAULT 3600000,
            max_extensions INTEGER NOT NULL DEFAULT 10
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE budgets (
            scope TEXT NOT NULL,
            unit TEXT NOT NULL CHECK (unit IN ('USD_MICROCENTS', 'TOKENS', 'CREDITS', 'RISK_POINTS')),
            tenant TEXT NOT NULL,
            allocated INTEGER NOT NULL CHECK (allocated >= 0),
            remaining INTEGER NOT NULL,
            reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
            spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
            debt INTEGER NOT NULL DEFAULT 0 CHECK (debt >= 0),
            overdraft_limit INTEGER NOT NULL DEFAULT 0 CHECK (overdraft_limit >= 0),
            is_over_limit INTEGER NOT NULL DEFAULT 0 CHECK (is_over_limit IN (0, 1)),
            status TEXT NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'FROZEN', 'CLOSED')),
            caps TEXT,                  -- JSON, the protocol's Caps
            PRIMARY KEY (scope, unit),
            CHECK (remaining = allocated - spent - reserved - debt)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE reservations (
            reservation_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('ACTIVE', 'COMMITTED', 'RELEASED', 'EXPIRED')),
            unit TEXT NOT NULL,
            estimate INTEGER NOT NULL CHECK (estimate >= 0),
            scope_path TEXT NOT NULL,
            affected_scopes TEXT NOT NULL,   -- JSON array, root to leaf
            budgeted_scopes TEXT NOT NULL,   -- JSON array: the scopes every later move touches
            subject TEXT NOT NULL,
            action TEXT NOT NULL,
            idempotency_key TEXT NOT NULL,
            metadata TEXT,
            overage_policy TEXT NOT NULL,
            created_at_ms INTEGER NOT NULL,
            expires_at_ms INTEGER NOT NULL,
            grace_ms INTEGER NOT NULL,
            extensions_left INTEGER NOT NULL CHECK (extensions_left >= 0),
            on_expiry TEXT NOT NULL DEFAULT 'release' CHECK (on_expiry IN ('release', 'charge')),
            charged INTEGER CHECK (charged >= 0),
            debt_incurred INTEGER,
            settled_by TEXT CHECK (settled_by IN ('client', 'expiry')),
            finalized_at_ms INTEGER,
            metrics TEXT,
            committed_metadata TEXT,
            CHECK ((state = 'COMMITTED') = (charged IS NOT NULL)),
            CHECK ((state = 'ACTIVE') = (settled_by IS NULL))
        ) STRICT;
        CREATE INDEX reservations_due ON reservations (expires_at_ms + grace_ms) WHERE state = 'ACTIVE';
        CREATE INDEX reservations_by_creation ON reservations (tenant, created_at_ms, reservation_id);
        CREATE INDEX reservations_by_key ON reservations (tenant, idempotency_key);

        CREATE TABLE events (
            event_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            unit TEXT NOT NULL,
            amount INTEGER NOT NULL CHECK (amount >= 0),
            charged INTEGER NOT NULL CHECK (charged >= 0),
            scope_path TEXT NOT NULL,
            budgeted_scopes TEXT NOT NULL,
            subject TEXT NOT NULL,
            action TEXT NOT NULL,
            idempotency_key TEXT NOT NULL,
            created_at_ms INTEGER NOT NULL,
            client_time_ms INTEGER,
            metrics TEXT,
            metadata TEXT
        ) STRICT;

        CREATE TABLE idempotency (       -- first answers, kept for verbatim replay
            tenant TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            resource TEXT NOT NULL,      -- the reservation of commit, release and extend; else ''
            idempotency_key TEXT NOT NULL,
            payload_sha256 BLOB NOT NULL,
            status INTEGER NOT NULL,
            body TEXT NOT NULL,
            created_at_ms INTEGER NOT NULL,
            PRIMARY KEY (tenant, endpoint, resource, idempotency_key)
        ) STRICT, WITHOUT ROWID;
        """
    )


def _m002_periods_quotas_keys(db: apsw.Connection) -> None:
    db.execute(
        """
        ALTER TABLE budgets ADD COLUMN period TEXT NOT NULL DEFAULT 'none'
            CHECK (period IN ('none', 'day', 'week', 'month'));
        ALTER TABLE budgets ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC';
        ALTER TABLE budgets ADD COLUMN period_end_ms INTEGER CHECK ((period = 'none') = (period_end_ms IS NULL));
        ALTER TABLE budgets ADD COLUMN counted_from_ms INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX budgets_by_period_end ON budgets (period_end_ms) WHERE period_end_ms IS NOT NULL;

        CREATE TABLE ended_periods (     -- what a budget had used when it started anew; empty periods leave no row
            scope TEXT NOT NULL,
            unit TEXT NOT NULL,
            start_ms INTEGER NOT NULL,
            end_ms INTEGER NOT NULL CHECK (end_ms > start_ms),
            allocated INTEGER NOT NULL CHECK (allocated >= 0),
            spent INTEGER NOT NULL CHECK (spent >= 0),
            debt INTEGER NOT NULL CHECK (debt >= 0),   -- carried into the next
            PRIMARY KEY (scope, unit, start_ms),
            FOREIGN KEY (scope, unit) REFERENCES budgets (scope, unit)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE quotas (            -- set by people; without a row, calls are not counted
            tenant TEXT NOT NULL,
            action_kind TEXT NOT NULL,
            scope TEXT NOT NULL,
            window TEXT NOT NULL CHECK (window IN ('run', 'minute', 'day')),
            max_calls INTEGER NOT NULL CHECK (max_calls > 0),
            PRIMARY KEY (tenant, action_kind, scope, window)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE quota_counts (
            scope TEXT NOT NULL,
            action_kind TEXT NOT NULL,
            window TEXT NOT NULL,
            bucket TEXT NOT NULL,        -- the run, or the start of the minute or day in epoch milliseconds
            calls INTEGER NOT NULL CHECK (calls >= 0),
            counted_at_ms INTEGER NOT NULL,
            PRIMARY KEY (scope, action_kind, window, bucket)
        ) STRICT, WITHOUT ROWID;
        ALTER TABLE reservations ADD COLUMN quotas TEXT;   -- JSON: the buckets its call was counted in

        -- The same table with its rows apart from its keys: whole answers in the inner pages of one tree made it deep.
        CREATE TABLE first_answers (
            tenant TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            resource TEXT NOT NULL,
            idempotency_key TEXT NOT NULL,
            payload_sha256 BLOB NOT NULL,
            status INTEGER NOT NULL,
            body TEXT NOT NULL,
            created_at_ms INTEGER NOT NULL,
            PRIMARY KEY (tenant, endpoint, resource, idempotency_key)
        ) STRICT;
        INSERT INTO first_answers SELECT * FROM idempotency;
        DROP TABLE idempotency;
        ALTER TABLE first_answers RENAME TO idempotency;

        CREATE TABLE api_keys (          -- of the HTTP face; the secrets themselves are nowhere
            key_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            name TEXT NOT NULL,
            prefix TEXT NOT NULL,        -- how the secret starts, for people to tell keys apart
            secret_sha256 BLOB NOT NULL UNIQUE,
            created_at_ms INTEGER NOT NULL,
            expires_at_ms INTEGER,
            revoked_at_ms INTEGER
        ) STRICT, WITHOUT ROWID;
        """
    )


def _m003_owners_uncovered(db: apsw.Connection) -> None:
    db.execute(
        """
        -- 'delegation:ID' settles and extends it alone; '' leaves that to anybody of the tenant
        ALTER TABLE reservations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
        -- what was used beyond what its commit was charged
        ALTER TABLE reservations ADD COLUMN uncovered INTEGER NOT NULL DEFAULT 0 CHECK (uncovered >= 0);

        -- spent over the scope, and charged to no budget for want of money; and how much of it people have cleared
        ALTER TABLE budgets ADD COLUMN uncovered INTEGER NOT NULL DEFAULT 0 CHECK (uncovered >= 0);
        ALTER TABLE budgets ADD COLUMN uncovered_cleared INTEGER NOT NULL DEFAULT 0 CHECK (uncovered_cleared >= 0);
        UPDATE budgets SET uncovered = min(9223372036854775807, (
            SELECT coalesce(sum(amount - charged), 0) FROM events, json_each(budgeted_scopes)
            WHERE json_each.value = budgets.scope AND events.unit = budgets.unit AND amount > charged));
        """
    )


MIGRATIONS: tuple[Migration, ...] = (_m001_ledger, _m002_periods_quotas_keys, _m003_owners_uncovered)

LEDGER_KIND = FileKind(
    noun="budget ledger",
    contents="budgets",
    application_id=APPLICATION_ID,
    migrations=MIGRATIONS,
    # Every protocol operation changes one or the other; lost settlements of due items are repeated from the clock
    # alone.
    high_water="SELECT now_ms, (SELECT coalesce(max(rowid), 0) FROM idempotency) FROM clock",
)
