"""Weight segments: shared-memory files that one container writes and the other binds."""
