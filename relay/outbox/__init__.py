"""The durable store: one contract, one source, several databases."""
