"""What one iteration has made of a trajectory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem_api.trajectory import Trajectory
from tandem_master.rewards.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Marks:
    """What one finished trajectory is judged by."""

    reward: float
    num_tokens: int
    """Length of the response."""
    correct: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trajectory as one iteration left it. `correct` is None where it is not finished."""

    trajectory: Trajectory
    correct: bool | None
    terms: Mapping[str, Verdict] = field(default_factory=dict)
    """What each reward term said; empty where none was asked."""

    @property
    def marks(self) -> Marks:
        """Return what a finished trajectory is judged by."""
        trajectory = self.trajectory
        return Marks(trajectory.reward or 0.0, trajectory.num_response_tokens, bool(self.correct))
