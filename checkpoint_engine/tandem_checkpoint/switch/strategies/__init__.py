"""What happens to the server between two Infer phases: one module a strategy."""
