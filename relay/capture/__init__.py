"""The ways in: every one makes a lead and puts it in the outbox."""
