-- Whom Dub credits. `credit` is JSON of the link (relay.core.dub.credit.CreditedLink);
-- its id and its partner's stand beside it, to be looked up. `event_id` is Dub's own id
-- of the event, `confirmed_by` what has shown it: "webhook" or "events".
ALTER TABLE leads ADD COLUMN credit TEXT;
ALTER TABLE leads ADD COLUMN link_id TEXT;
ALTER TABLE leads ADD COLUMN partner_id TEXT;
ALTER TABLE leads ADD COLUMN event_id TEXT;
ALTER TABLE leads ADD COLUMN confirmed_by TEXT;

-- Few links and partners have many leads each: they grow at the end of each one's part.
CREATE INDEX leads_link ON leads (link_id, seq) WHERE link_id IS NOT NULL;
CREATE INDEX leads_partner ON leads (partner_id, seq) WHERE partner_id IS NOT NULL;
