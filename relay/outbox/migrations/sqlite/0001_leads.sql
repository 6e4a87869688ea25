-- One row a lead: what was captured, and what has happened to it so far.
-- All times are epoch milliseconds. `seq` is the order in which leads came.
CREATE TABLE leads (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    customer TEXT NOT NULL,
    event TEXT NOT NULL,
    click_id TEXT NOT NULL,
    mode TEXT NOT NULL,
    -- JSON of what says who the person is, in one place so that it can be erased.
    person TEXT NOT NULL,
    notes TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    -- When a queued or waiting lead may go; when the lease of a sending one ends.
    due_at INTEGER,
    -- Whoever holds it may settle the lead while it is being sent.
    token TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    delivered_at INTEGER,
    in_doubt INTEGER NOT NULL DEFAULT 0,
    -- When this round of attempts began.
    round_at INTEGER NOT NULL,
    dedupe_key TEXT NOT NULL,
    -- The source and the caller's id of the request.
    idempotency_key TEXT,
    body_hash BLOB,
    -- What is due is found by due_at alone, and what is not may have none.
    CHECK ((due_at IS NOT NULL) = (status IN ('queued', 'sending', 'waiting')))
) STRICT;

-- Indexes whose keys come in no order cost ingest most: each new lead rewrites
-- another page of theirs. There are two of them, this one and leads_customer;
-- the others grow at their end.
CREATE UNIQUE INDEX leads_request ON leads (idempotency_key)
WHERE idempotency_key IS NOT NULL;

-- A customer's line, a customer's duplicates, and the list of a customer's leads.
CREATE INDEX leads_customer ON leads (customer, status);

-- The claim walks it from its beginning, and it ends with what is not due yet.
CREATE INDEX leads_due ON leads (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX leads_status ON leads (status);

CREATE TABLE attempts (
    lead_seq INTEGER NOT NULL REFERENCES leads (seq) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    step TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    code TEXT,
    PRIMARY KEY (lead_seq, n)
) STRICT, WITHOUT ROWID;

-- The gate of every worker on this database; always one row.
CREATE TABLE gate (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    closed INTEGER NOT NULL,
    reason TEXT,
    probe_at INTEGER,
    failures INTEGER NOT NULL
) STRICT;
INSERT INTO gate (id, closed, failures) VALUES (1, 0, 0);

-- Counted up to find out whether the database can be written; always one row.
CREATE TABLE pulse (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    beats INTEGER NOT NULL
) STRICT;
INSERT INTO pulse (id, beats) VALUES (1, 0);
