-- A person has stopped delivery; only a person lets it go on.
ALTER TABLE gate ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;

-- What people did to the leads.
CREATE TABLE acts (
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX acts_at ON acts (at);

-- What each relay saw in each minute of the last days, as JSON, for plots.
CREATE TABLE samples (
    at INTEGER NOT NULL,
    relay TEXT NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (at, relay)
) STRICT, WITHOUT ROWID;
