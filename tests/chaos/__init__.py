"""Faults at random over many leads: `make chaos`."""
