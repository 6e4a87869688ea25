-- When the personal data of a lead was erased (relay/outbox/keeping.py). What told
-- who the person was, is a hash from then on: customer, dedupe_key, idempotency_key.
ALTER TABLE leads ADD COLUMN erased_at BIGINT;

-- The sweep walks it from its beginning. It holds the settled leads that still have
-- their data, and grows at its end: ingest does not touch it.
CREATE INDEX leads_kept ON leads (created_at, seq)
WHERE erased_at IS NULL AND status IN ('delivered', 'confirmed', 'duplicate');
