-- What is left of leads whose rows are gone, where a repeat must still be one: hashes of
-- the customer and of the dedupe key (relay/outbox/removal.py).
CREATE TABLE removed (
    customer TEXT NOT NULL,
    dedupe_key TEXT NOT NULL,
    lead_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (customer, dedupe_key)
) STRICT, WITHOUT ROWID;
