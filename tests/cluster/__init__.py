"""The operator on a real node: whole jobs, and what heals them."""
