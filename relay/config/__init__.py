"""Settings: one table makes the TOML keys, the environment names and the docs."""
