-- A person has stopped delivery; only a person lets it go on.
ALTER TABLE gate ADD COLUMN paused BOOLEAN NOT NULL DEFAULT FALSE;

-- What people did to the leads.
CREATE TABLE acts (
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE INDEX acts_at ON acts (at);

-- What each relay saw in each minute of the last days, as JSON, for plots.
CREATE TABLE samples (
    at BIGINT NOT NULL,
    relay TEXT NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (at, relay)
);
