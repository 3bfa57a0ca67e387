"""Which problems an iteration draws."""
