"""How a response is scored, and how scores become advantages."""
