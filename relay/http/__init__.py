"""The HTTP side that every endpoint shares: responses, limits, the listener."""
