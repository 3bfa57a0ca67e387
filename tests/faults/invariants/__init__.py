"""The seven invariants, each a pure function from a history to what breaks it."""
