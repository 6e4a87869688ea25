"""What the relay reports of itself: log lines, metrics and traces."""
