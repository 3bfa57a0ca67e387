"""The central master: the report's loop of rollout and training (section 2.6.1)."""
