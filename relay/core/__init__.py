"""Pure logic: no I/O, no event loop, no clock, no randomness."""
