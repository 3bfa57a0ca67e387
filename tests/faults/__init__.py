"""Faults injected into real jobs, and the invariants judged on what was seen from outside."""
