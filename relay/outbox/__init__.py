"""The durable store: one contract, several databases."""
