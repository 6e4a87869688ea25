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

-- Whether the leads are parked behind a closed gate (a person must act), or
-- wait in line (Dub is down).
ALTER TABLE gate ADD COLUMN parks INTEGER NOT NULL DEFAULT 1;
