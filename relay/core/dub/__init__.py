"""Dub's side of the contract: its schema, its errors, and what a reply means."""
