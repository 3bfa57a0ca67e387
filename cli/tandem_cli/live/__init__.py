"""A run while it runs: what is known, how it looks in a terminal, and as plain log lines."""
