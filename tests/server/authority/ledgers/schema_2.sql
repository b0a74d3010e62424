-- A ledger as schema 2 wrote it: the one of schema 1, migrated.
-- Frozen: what a released version wrote is never edited.
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
            caps TEXT, period TEXT NOT NULL DEFAULT 'none'
            CHECK (period IN ('none', 'day', 'week', 'month')), time_zone TEXT NOT NULL DEFAULT 'UTC', period_end_ms INTEGER CHECK ((period = 'none') = (period_end_ms IS NULL)), counted_from_ms INTEGER NOT NULL DEFAULT 0,                  -- JSON, the protocol's Caps
            PRIMARY KEY (scope, unit),
            CHECK (remaining = allocated - spent - reserved - debt)
        ) STRICT, WITHOUT ROWID;
INSERT INTO budgets VALUES('tenant:acme','TOKENS','acme',1000,913,10,77,0,0,0,'ACTIVE',NULL,'none','UTC',NULL,0);
INSERT INTO budgets VALUES('tenant:acme/agent:bot','TOKENS','acme',500,420,10,70,0,0,0,'ACTIVE',NULL,'none','UTC',NULL,0);
CREATE INDEX budgets_by_period_end ON budgets (period_end_ms) WHERE period_end_ms IS NOT NULL;
CREATE TABLE clock (            -- one row: time never runs backwards within a ledger
            id INTEGER PRIMARY KEY CHECK (id = 1),
            now_ms INTEGER NOT NULL
        ) STRICT;
INSERT INTO clock VALUES(1,1795000002000);
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
INSERT INTO events VALUES('01a20dff-00d5-759d-af14-7bf0918ccb4d','acme','TOKENS',5,5,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','event',1795000000000,NULL,NULL,NULL);
INSERT INTO events VALUES('01a20dff-00da-7f40-8dd8-b032f6bb7bd3','acme','TOKENS',7,7,'tenant:acme','["tenant:acme"]','{"tenant":"acme"}','{"kind":"web.search","name":"search"}','event-2',1795000002000,NULL,NULL,NULL);
CREATE TABLE "idempotency" (
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
INSERT INTO idempotency VALUES('acme','commit','01a20dff-00c7-7b31-ad91-9d24bf83805a','commit',X'4E02DEEFEC9451E97AC6567A9D543AF41E2D61C54AEB8BD659E1C5C08D2051A5',200,'{"status":"COMMITTED","charged":{"unit":"TOKENS","amount":15},"released":{"unit":"TOKENS","amount":5},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":855},"reserved":{"unit":"TOKENS","amount":130},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":355},"reserved":{"unit":"TOKENS","amount":130},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','event','','event',X'39F71734373121F2DDC25F5ABE7005E1B66102A13AEAA130D5BD4B24F146C600',201,'{"status":"APPLIED","event_id":"01a20dff-00d5-759d-af14-7bf0918ccb4d","balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":880},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":20},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":380},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":20},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','event','','event-2',X'C2AEA52B32BC2384C6115EEED0E9FC3468D59524243717DAE17887A7758BA0EB',201,'{"status":"APPLIED","event_id":"01a20dff-00da-7f40-8dd8-b032f6bb7bd3","balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":913},"reserved":{"unit":"TOKENS","amount":10},"spent":{"unit":"TOKENS","amount":77},"allocated":{"unit":"TOKENS","amount":1000}}]}',1795000002000);
INSERT INTO idempotency VALUES('acme','extend','01a20dff-00c6-72c3-8b02-5427ed7e1131','extend',X'4D127658897D7198B87B0BDF75403F2F94860B3268A6D88D3F1F3E579CC60E90',200,'{"status":"ACTIVE","expires_at_ms":1795000061000,"remaining_ttl_ms":61000,"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":885},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":385},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','release','01a20dff-00c8-722a-ad7e-604898cc8320','release',X'F7A3BF8979C911BEA0F492C356B1E2AE734BA0079ADC291AC00EC35CFF98F0C0',200,'{"status":"RELEASED","released":{"unit":"TOKENS","amount":30},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":885},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":385},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":15},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','reserve','','active',X'61E4046B117CA85CBC60626E837C751BBB3B37CD5F5EC34442305A5FEEE18CE5',200,'{"decision":"ALLOW","reservation_id":"01a20dff-00c6-72c3-8b02-5427ed7e1131","affected_scopes":["tenant:acme","tenant:acme/agent:bot"],"expires_at_ms":1795000060000,"remaining_ttl_ms":60000,"scope_path":"tenant:acme/agent:bot","reserved":{"unit":"TOKENS","amount":10},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":990},"reserved":{"unit":"TOKENS","amount":10},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":490},"reserved":{"unit":"TOKENS","amount":10},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','reserve','','charged',X'DC25ED7EC55F5E5E0083B4F2BA2BBD2F2789A0FA730B31F3FBAF0010C94C2CFA',200,'{"decision":"ALLOW","reservation_id":"01a20dff-00cd-71c8-a1b3-c818fcfb5814","affected_scopes":["tenant:acme","tenant:acme/agent:bot"],"expires_at_ms":1795000001000,"remaining_ttl_ms":1000,"scope_path":"tenant:acme/agent:bot","reserved":{"unit":"TOKENS","amount":50},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":850},"reserved":{"unit":"TOKENS","amount":150},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":350},"reserved":{"unit":"TOKENS","amount":150},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','reserve','','committed',X'3CD6156F11CF692FCBBEE854F42ABCD8B7F90DE9737EDF34E4DDC045169FFCC7',200,'{"decision":"ALLOW","reservation_id":"01a20dff-00c7-7b31-ad91-9d24bf83805a","affected_scopes":["tenant:acme","tenant:acme/agent:bot"],"expires_at_ms":1795000060000,"remaining_ttl_ms":60000,"scope_path":"tenant:acme/agent:bot","reserved":{"unit":"TOKENS","amount":20},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":970},"reserved":{"unit":"TOKENS","amount":30},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":470},"reserved":{"unit":"TOKENS","amount":30},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','reserve','','expired',X'C8983E50EE8A5A14614D867E7B63CB4E27D766B8BC5B4982E5D9604CE0DB10A8',200,'{"decision":"ALLOW","reservation_id":"01a20dff-00c9-7786-ad29-175aaa338f59","affected_scopes":["tenant:acme","tenant:acme/agent:bot"],"expires_at_ms":1795000001000,"remaining_ttl_ms":1000,"scope_path":"tenant:acme/agent:bot","reserved":{"unit":"TOKENS","amount":40},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":900},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":400},"reserved":{"unit":"TOKENS","amount":100},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
INSERT INTO idempotency VALUES('acme','reserve','','released',X'45F46C0E7624C8FFBF5A98D083BE8346F5CEB1D669B6C0B0ACF2E063CFBFEC81',200,'{"decision":"ALLOW","reservation_id":"01a20dff-00c8-722a-ad7e-604898cc8320","affected_scopes":["tenant:acme","tenant:acme/agent:bot"],"expires_at_ms":1795000060000,"remaining_ttl_ms":60000,"scope_path":"tenant:acme/agent:bot","reserved":{"unit":"TOKENS","amount":30},"balances":[{"scope":"tenant:acme","scope_path":"tenant:acme","remaining":{"unit":"TOKENS","amount":940},"reserved":{"unit":"TOKENS","amount":60},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":1000}},{"scope":"agent:bot","scope_path":"tenant:acme/agent:bot","remaining":{"unit":"TOKENS","amount":440},"reserved":{"unit":"TOKENS","amount":60},"spent":{"unit":"TOKENS","amount":0},"allocated":{"unit":"TOKENS","amount":500}}]}',1795000000000);
CREATE TABLE quota_counts (
            scope TEXT NOT NULL,
            action_kind TEXT NOT NULL,
            window TEXT NOT NULL,
            bucket TEXT NOT NULL,        -- the run, or the start of the minute or day in epoch milliseconds
            calls INTEGER NOT NULL CHECK (calls >= 0),
            counted_at_ms INTEGER NOT NULL,
            PRIMARY KEY (scope, action_kind, window, bucket)
        ) STRICT, WITHOUT ROWID;
CREATE TABLE quotas (            -- set by people; without a row, calls are not counted
            tenant TEXT NOT NULL,
            action_kind TEXT NOT NULL,
            scope TEXT NOT NULL,
            window TEXT NOT NULL CHECK (window IN ('run', 'minute', 'day')),
            max_calls INTEGER NOT NULL CHECK (max_calls > 0),
            PRIMARY KEY (tenant, action_kind, scope, window)
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
            committed_metadata TEXT, quotas TEXT,
            CHECK ((state = 'COMMITTED') = (charged IS NOT NULL)),
            CHECK ((state = 'ACTIVE') = (settled_by IS NULL))
        ) STRICT;
INSERT INTO reservations VALUES('01a20dff-00c6-72c3-8b02-5427ed7e1131','acme','ACTIVE','TOKENS',10,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','active',NULL,'ALLOW_IF_AVAILABLE',1795000000000,1795000061000,5000,9,'release',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO reservations VALUES('01a20dff-00c7-7b31-ad91-9d24bf83805a','acme','COMMITTED','TOKENS',20,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','committed',NULL,'ALLOW_IF_AVAILABLE',1795000000000,1795000060000,5000,10,'release',15,0,'client',1795000000000,NULL,'{"turn":1}',NULL);
INSERT INTO reservations VALUES('01a20dff-00c8-722a-ad7e-604898cc8320','acme','RELEASED','TOKENS',30,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','released',NULL,'ALLOW_IF_AVAILABLE',1795000000000,1795000060000,5000,10,'release',NULL,NULL,'client',1795000000000,NULL,NULL,NULL);
INSERT INTO reservations VALUES('01a20dff-00c9-7786-ad29-175aaa338f59','acme','EXPIRED','TOKENS',40,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','expired',NULL,'ALLOW_IF_AVAILABLE',1795000000000,1795000001000,0,10,'release',NULL,NULL,'expiry',NULL,NULL,NULL,NULL);
INSERT INTO reservations VALUES('01a20dff-00cd-71c8-a1b3-c818fcfb5814','acme','COMMITTED','TOKENS',50,'tenant:acme/agent:bot','["tenant:acme","tenant:acme/agent:bot"]','["tenant:acme","tenant:acme/agent:bot"]','{"tenant":"acme","agent":"bot"}','{"kind":"llm.completion","name":"claude"}','charged','{"on_expiry":"charge"}','ALLOW_IF_AVAILABLE',1795000000000,1795000001000,0,10,'charge',50,0,'expiry',1795000002000,NULL,'{"actual_source":"bound"}',NULL);
CREATE INDEX reservations_by_creation ON reservations (tenant, created_at_ms, reservation_id);
CREATE INDEX reservations_by_key ON reservations (tenant, idempotency_key);
CREATE INDEX reservations_due ON reservations (expires_at_ms + grace_ms) WHERE state = 'ACTIVE';
CREATE TABLE tenants (          -- absent = unrestricted, with the protocol's defaults
            tenant TEXT PRIMARY KEY,
            status TEXT NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED', 'CLOSED')),
            default_overage_policy TEXT NOT NULL DEFAULT 'ALLOW_IF_AVAILABLE'
                CHECK (default_overage_policy IN ('REJECT', 'ALLOW_IF_AVAILABLE', 'ALLOW_WITH_OVERDRAFT')),
            default_ttl_ms INTEGER NOT NULL DEFAULT 60000,
            max_ttl_ms INTEGER NOT NULL DEFAULT 3600000,
            max_extensions INTEGER NOT NULL DEFAULT 10
        ) STRICT, WITHOUT ROWID;
pragma user_version=2;
pragma application_id=1129925681;
