"""What a check finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach of one invariant."""

    invariant: int
    """Its number in the list of seven."""
    at: float
    """Unix time in seconds at which it was seen."""
    text: str
    """What was seen, for people."""
