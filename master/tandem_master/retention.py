"""Which checkpoints are kept: the newest ones, and one of every so many iterations for good."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """What a job keeps of its checkpoints."""

    keep_last: int = 1
    """The newest ones."""
    keep_every: int = 0
    """Iterations between two that are kept for good; 0 for none."""
    best: int | None = None
    """One that stays, whatever its age: it did best on held-out problems."""

    def forgotten(self, generations: Sequence[int]) -> tuple[int, ...]:
        """Return which of these checkpoints go, newest first.

        Of every `keep_every` iterations, from that number on, the first checkpoint stays: iterations and checkpoints
        need not fall together. What is kept today is kept tomorrow, as no earlier one is ever added; but for `best`,
        which goes once another one is.
        """
        ordered = sorted(generations)
        kept = {*ordered[-self.keep_last :], *self._milestones(ordered), self.best}
        return tuple(generation for generation in reversed(ordered) if generation not in kept)

    def _milestones(self, ordered: Sequence[int]) -> set[int]:
        if not self.keep_every:
            return set()
        firsts = {generation // self.keep_every: generation for generation in reversed(ordered)}
        return {generation for number, generation in firsts.items() if number}
