"""Taking leads out of the outbox and settling them with Dub."""
