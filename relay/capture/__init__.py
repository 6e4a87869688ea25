"""The sources of leads: each makes a lead and stores it in the outbox."""
