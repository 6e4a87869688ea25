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
    -- Its holder may settle the lead while it is being sent.
    token TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    delivered_at INTEGER,
    in_doubt INTEGER NOT NULL DEFAULT 0,
    -- When the last call of ours began that may have claimed Dub's dedupe key.
    key_claimed_at INTEGER,
    -- When this round of attempts began.
    round_at INTEGER NOT NULL,
    dedupe_key TEXT NOT NULL,
    -- The source and the caller's id of the request.
    idempotency_key TEXT,
    body_hash BLOB,
    -- When the personal data of a lead was erased (relay/outbox/personal_data.py). What
    -- named the person, is a hash from then on: customer, dedupe_key, idempotency_key.
    erased_at INTEGER,
    -- JSON of what makes a lead a sale (relay.core.leads.Sale); NULL where it is none.
    sale TEXT,
    -- Dub's last answer, JSON, while the caller who asked for it may wait for it. It
    -- names the person as `person` does, and is to be erased with it.
    answer TEXT,
    -- What is due is found by due_at alone, and what is not may have none.
    CHECK ((due_at IS NOT NULL) = (status IN ('queued', 'sending', 'waiting')))
) STRICT;

-- Indexes whose keys come in no order cost ingest most: each new lead rewrites
-- another page of theirs. There are two of them, this one and leads_customer;
-- the others grow at their end.
CREATE UNIQUE INDEX leads_request ON leads (idempotency_key)
WHERE idempotency_key IS NOT NULL;

-- A customer's queue, a customer's duplicates, and the list of a customer's leads.
CREATE INDEX leads_customer ON leads (customer, status);

-- The claim walks it from its beginning, and it ends with what is not due yet.
CREATE INDEX leads_due ON leads (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX leads_status ON leads (status);

-- Retention walks it from its beginning. It holds the settled leads that still have
-- their data, and grows at its end: ingest does not touch it.
CREATE INDEX leads_kept ON leads (created_at)
WHERE erased_at IS NULL AND status IN ('delivered', 'confirmed', 'duplicate');

-- Clicks come in no order: an index of them alone would have each new lead rewrite
-- another page. In parts of 1,024 leads it grows at its end; a search asks each part.
CREATE INDEX leads_click ON leads (seq >> 10, click_id);

-- Few events have many leads each: it grows at the end of each event's part.
CREATE INDEX leads_event ON leads (event);

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

-- The circuit breaker of every worker on this database; always one row.
CREATE TABLE circuit (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    is_open INTEGER NOT NULL,
    reason TEXT,
    probe_at INTEGER,
    failures INTEGER NOT NULL,
    -- Whether the leads are parked behind an open circuit (a person must act), or
    -- wait in their queues (Dub is down).
    parks INTEGER NOT NULL DEFAULT 1,
    -- A person has stopped delivery; only a person lets it go on.
    paused INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO circuit (id, is_open, failures) VALUES (1, 0, 0);

-- The budget of calls to Dub that all relays on this database share
-- (relay/core/pacing.py); always one row.
CREATE TABLE budget (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    spent_until REAL NOT NULL,
    paused_until INTEGER NOT NULL,
    share REAL NOT NULL,
    lowered_at INTEGER NOT NULL
) STRICT;
INSERT INTO budget (id, spent_until, paused_until, share, lowered_at)
VALUES (1, 0.0, 0, 1.0, 0);

-- Counted up to find out whether the database can be written; always one row.
CREATE TABLE pulse (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    beats INTEGER NOT NULL
) STRICT;
INSERT INTO pulse (id, beats) VALUES (1, 0);

-- What people did to the leads.
CREATE TABLE audit_log (
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX audit_log_at ON audit_log (at);

-- What each relay saw in each minute of the last days, as JSON, for plots.
CREATE TABLE samples (
    at INTEGER NOT NULL,
    relay TEXT NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (at, relay)
) STRICT, WITHOUT ROWID;

-- What was reported to the operator's webhook, or is to be: one row a cause, as long
-- as it is not over. All relays on this database share it.
CREATE TABLE alerts (
    cause TEXT PRIMARY KEY,
    message_id TEXT NOT NULL,
    body TEXT NOT NULL,
    since INTEGER NOT NULL,
    over INTEGER NOT NULL,
    -- When the message goes, or goes again; NULL once it was accepted.
    due_at INTEGER,
    attempts INTEGER NOT NULL
) STRICT;

-- Leads by state, counted up to a seq; later ones are counted by the reader
-- (relay/outbox/backends/sqlite_native.py).
CREATE TABLE tallied (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    upto INTEGER NOT NULL
) STRICT;
INSERT INTO tallied VALUES (1, 0);

CREATE TABLE tallies (
    status TEXT PRIMARY KEY,
    leads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER leads_moved AFTER UPDATE OF status ON leads
WHEN old.status <> new.status AND new.seq <= (SELECT upto FROM tallied)
BEGIN
    UPDATE tallies SET leads = leads - 1 WHERE status = old.status;
    INSERT INTO tallies VALUES (new.status, 1)
    ON CONFLICT DO UPDATE SET leads = leads + 1;
END;

-- The next lead takes the seq of the last one if that is gone.
CREATE TRIGGER leads_gone AFTER DELETE ON leads
WHEN old.seq <= (SELECT upto FROM tallied)
BEGIN
    UPDATE tallies SET leads = leads - 1 WHERE status = old.status;
    UPDATE tallied SET upto = min(upto, (SELECT coalesce(max(seq), 0) FROM leads));
END;
