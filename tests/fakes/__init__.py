"""Stand-ins for outside systems, shared by the tests."""
