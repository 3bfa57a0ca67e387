"""The test ground: a real API server for most tests, a real node for the rest."""
