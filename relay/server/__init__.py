"""The process: sockets, signals, workers, and a graceful stop."""
