"""The tests, by what they start: unit, integration, acceptance, browser."""
