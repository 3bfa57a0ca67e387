"""The switch protocol as a model, checked by spin."""
