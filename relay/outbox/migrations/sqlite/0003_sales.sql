-- JSON of what makes a lead a sale (relay.core.leads.Sale); NULL where it is none.
ALTER TABLE leads ADD COLUMN sale TEXT;

-- Dub's last answer, JSON, while the caller who asked for it may wait for it. It
-- names the person as `person` does, and is to be erased with it.
ALTER TABLE leads ADD COLUMN answer TEXT;
