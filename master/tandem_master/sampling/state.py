"""What the choice of problems depends on, and what it chooses."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tally:
    """Tries of one problem so far, and how many had full marks."""

    num_tried: int
    num_correct: int

    @property
    def success_rate(self) -> float:
        """s_i of the report, section 2.3.4."""
        return self.num_correct / self.num_tried


@dataclass(frozen=True, slots=True)
class Draw:
    """The problems of one iteration: with the tallies, all that the next draw depends on."""

    problem_ids: tuple[str, ...]
    positions: Mapping[str, int] = field(default_factory=dict)
    """Place of each set in its row of shuffled passes, after this draw: problems that were drawn uniformly so far."""
