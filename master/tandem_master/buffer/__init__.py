"""The replay buffer: what must survive the death of the master."""
