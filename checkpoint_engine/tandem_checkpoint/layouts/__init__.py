"""Where every element of every tensor lives, on each side, in canonical coordinates."""
