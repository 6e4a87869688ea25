-- What Dub's list of events shows. `events` is JSON of the id and time of each event of
-- a lead; `doubled_at` when those were seen to be too many, `missing_at` when the list
-- was last seen not to have it.
ALTER TABLE leads ADD COLUMN events TEXT;
ALTER TABLE leads ADD COLUMN missing_at INTEGER;
ALTER TABLE leads ADD COLUMN doubled_at INTEGER;

-- What Dub has taken and its list has not shown yet.
CREATE INDEX leads_unproven ON leads (delivered_at)
WHERE status = 'delivered' AND missing_at IS NULL AND mode <> 'deferred';
CREATE INDEX leads_missing ON leads (missing_at) WHERE missing_at IS NOT NULL;
CREATE INDEX leads_doubled ON leads (doubled_at) WHERE doubled_at IS NOT NULL;

-- How far the list was read, and what came of it: JSON, in one row.
CREATE TABLE reconciliation (
    state TEXT NOT NULL
) STRICT;
INSERT INTO reconciliation VALUES ('{}');
