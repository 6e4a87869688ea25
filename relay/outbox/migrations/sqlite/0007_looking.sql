-- For whoever looks at a million leads (relay/outbox/sqlite_derived.py). How far the
-- leads are counted in `tallies`, and how far their clicks are in `clicks`, as a seq.
-- Later leads are read one by one, so taking a lead in pays for none of this.
CREATE TABLE derived (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    tallies INTEGER NOT NULL,
    clicks INTEGER NOT NULL
) STRICT;
INSERT INTO derived SELECT 1, coalesce(max(seq), 0), coalesce(max(seq), 0) FROM leads;

CREATE TABLE tallies (
    status TEXT PRIMARY KEY,
    leads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tallies SELECT status, count(*) FROM leads GROUP BY status;

-- It may know clicks that a lead has no more: look at the lead.
CREATE TABLE clicks (
    click_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (click_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO clicks SELECT click_id, seq FROM leads ORDER BY click_id, seq;

CREATE TRIGGER leads_moved AFTER UPDATE OF status ON leads
WHEN old.status <> new.status AND new.seq <= (SELECT tallies FROM derived)
BEGIN
    UPDATE tallies SET leads = leads - 1 WHERE status = old.status;
    INSERT INTO tallies VALUES (new.status, 1)
    ON CONFLICT DO UPDATE SET leads = leads + 1;
END;

CREATE TRIGGER leads_reclicked AFTER UPDATE OF click_id ON leads
WHEN old.click_id <> new.click_id
BEGIN
    INSERT OR IGNORE INTO clicks VALUES (new.click_id, new.seq);
END;

-- The next lead takes the seq of the last one if that is gone.
CREATE TRIGGER leads_gone AFTER DELETE ON leads
BEGIN
    UPDATE tallies SET leads = leads - 1
    WHERE status = old.status AND old.seq <= (SELECT tallies FROM derived);
    UPDATE derived SET
        tallies = min(tallies, (SELECT coalesce(max(seq), 0) FROM leads)),
        clicks = min(clicks, (SELECT coalesce(max(seq), 0) FROM leads));
END;

-- Few events have many leads each: it grows at the end of each event's part.
CREATE INDEX leads_event ON leads (event);
