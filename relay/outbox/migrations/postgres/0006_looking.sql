-- For whoever looks at a million leads: leads by state, as changes to be summed up.
-- Each statement adds its own rows and waits for nobody; now and then one sums up
-- what is not being summed up by another.
CREATE TABLE tallies (
    status TEXT NOT NULL,
    leads BIGINT NOT NULL
);
CREATE SEQUENCE tally_turns;

CREATE FUNCTION tally_leads() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tallies SELECT status, count(*) FROM came GROUP BY status;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO tallies SELECT status, -count(*) FROM went GROUP BY status;
    ELSE
        INSERT INTO tallies
        SELECT status, sum(leads) FROM (
            SELECT status, 1 AS leads FROM came
            UNION ALL SELECT status, -1 FROM went
        ) AS moved
        GROUP BY status HAVING sum(leads) <> 0;
    END IF;
    IF nextval('tally_turns') % 256 = 0 THEN
        WITH summed AS (
            DELETE FROM tallies WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM tallies FOR UPDATE SKIP LOCKED
            ))
            RETURNING status, leads
        )
        INSERT INTO tallies
        SELECT status, sum(leads) FROM summed GROUP BY status HAVING sum(leads) <> 0;
    END IF;
    RETURN NULL;
END
$$;

-- These wait until nobody writes leads, and keep it so until the migration is done.
CREATE TRIGGER leads_came AFTER INSERT ON leads
REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION tally_leads();

CREATE TRIGGER leads_moved AFTER UPDATE ON leads
REFERENCING OLD TABLE AS went NEW TABLE AS came
FOR EACH STATEMENT EXECUTE FUNCTION tally_leads();

CREATE TRIGGER leads_gone AFTER DELETE ON leads
REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION tally_leads();

INSERT INTO tallies SELECT status, count(*) FROM leads GROUP BY status;

CREATE INDEX leads_click ON leads (click_id);

CREATE INDEX leads_event ON leads (event, seq);
