-- What the proxy saw so often that no rule, or no test, could judge: names and counts
-- alone. `seen` is JSON.
CREATE TABLE sightings (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen TEXT NOT NULL,
    times bigint NOT NULL,
    first_at bigint NOT NULL,
    last_at bigint NOT NULL,
    PRIMARY KEY (kind, name)
);
