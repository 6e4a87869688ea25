-- For whoever looks at a million leads. Leads by state, counted up to a seq; later ones
-- are counted by whoever looks (relay/outbox/sqlite_tallies.py).
CREATE TABLE tallied (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    upto INTEGER NOT NULL
) STRICT;
INSERT INTO tallied SELECT 1, coalesce(max(seq), 0) FROM leads;

CREATE TABLE tallies (
    status TEXT PRIMARY KEY,
    leads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tallies SELECT status, count(*) FROM leads GROUP BY status;

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

-- Clicks come in no order: an index of them alone would have each new lead rewrite
-- another page. In parts of 1,024 leads it grows at its end; a search asks each part.
CREATE INDEX leads_click ON leads (seq >> 10, click_id);

-- Few events have many leads each: it grows at the end of each event's part.
CREATE INDEX leads_event ON leads (event);
