-- What the operator's webhook was told, or is to be told: one row a cause, as long as
-- it is not over. All relays on this database share it.
CREATE TABLE alerts (
    cause TEXT PRIMARY KEY,
    message_id TEXT NOT NULL,
    body TEXT NOT NULL,
    since INTEGER NOT NULL,
    over INTEGER NOT NULL,
    -- When the message goes, or goes again; NULL once it was taken.
    due_at INTEGER,
    attempts INTEGER NOT NULL
) STRICT;
