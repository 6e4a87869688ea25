-- What the proxy saw so often that no rule, or no test, could judge: names and counts
-- alone. `seen` is JSON.
CREATE TABLE sightings (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen TEXT NOT NULL,
    times INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
