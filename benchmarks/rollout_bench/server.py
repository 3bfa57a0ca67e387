"""One server in virtual time: all its sequences get a token a step, and a step takes as long as the pace says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rollout_bench.pace import Pace

BLOCK_TOKENS = 64
"""Sequences come and end at multiples of so many steps: what is simulated is a block, not a token."""


@dataclass(slots=True, eq=False)
class Running:
    """One sequence at a server."""

    name: str
    context_blocks: int
    """Prompt and response so far."""
    remaining_blocks: int
    """Until it ends, or has used its budget."""
    done_blocks: int = 0


@dataclass(slots=True)
class SimulatedServer:
    """Sequences that run, and the time that they have had."""

    pace: Pace
    clock: float = 0.0
    """Virtual seconds: its sequences are what they were at this time."""
    running: list[Running] = field(default_factory=list)
    peak: int = 0
    """Most sequences that it ran at once so far: its seats."""
    idle_seconds: float = 0.0
    """Sum over its seats of the time that each was idle after it had been taken."""

    def admit(self, sequences: Sequence[Running], prefix_blocks: int, now: float) -> None:
        """Begin with more sequences, which share a prefix that is read first; the others wait meanwhile."""
        self.advance(now)
        self._pass(max(0.0, now - self.clock))  # an idle server has not moved
        self.running += sequences
        self.peak = max(self.peak, len(self.running))
        self._pass(self.pace.prefill_seconds * prefix_blocks * BLOCK_TOKENS)

    def next_end(self) -> float | None:
        """Return when the first sequence ends; None where none runs."""
        if not self.running:
            return None
        return self.clock + self._seconds(min(item.remaining_blocks for item in self.running))

    def end_first(self) -> list[Running]:
        """Go on to the next end; return what ends there."""
        num_blocks = min(item.remaining_blocks for item in self.running)
        self._do(num_blocks)
        ended = [item for item in self.running if item.remaining_blocks == 0]
        self.running = [item for item in self.running if item.remaining_blocks > 0]
        return ended

    def advance(self, now: float) -> None:
        """Do all blocks that begin before `now`, none of which ends a sequence: the clock may be past `now` then."""
        if self.running and self.clock < now:
            fewest = min(item.remaining_blocks for item in self.running)
            self._do(min(self._blocks_within(now - self.clock, fewest) + 1, max(fewest - 1, 0)))

    def cut(self, now: float) -> list[Running]:
        """End everything at `now`; a block that is not complete by then is lost. Return what ran."""
        if self.running and self.clock < now:
            fewest = min(item.remaining_blocks for item in self.running)
            self._do(self._blocks_within(now - self.clock, fewest))
            self._pass(now - self.clock)
        cut, self.running = self.running, []
        return cut

    def _do(self, num_blocks: int) -> None:
        self._pass(self._seconds(num_blocks))
        for item in self.running:
            item.remaining_blocks -= num_blocks
            item.context_blocks += num_blocks
            item.done_blocks += num_blocks

    def _pass(self, seconds: float) -> None:
        self.clock += seconds
        self.idle_seconds += seconds * (self.peak - len(self.running))

    def _seconds(self, num_blocks: int) -> float:
        context = sum(item.context_blocks for item in self.running)
        return self.pace.steps_seconds(num_blocks * BLOCK_TOKENS, len(self.running), context * BLOCK_TOKENS)

    def _blocks_within(self, seconds: float, most: int) -> int:
        """Return how many blocks take no longer than `seconds`, at most `most`: a search by halves."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._seconds(middle) <= seconds else (low, middle - 1)
        return low
