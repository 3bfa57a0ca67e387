"""What came of each injection, and of the whole campaign."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from pydantic import TypeAdapter

from tests.faults.invariants.violation import Violation

PROGRESS_SECONDS = 120.0
"""Deadline of progress, counted from when the fault was undone."""


class Recovery(StrEnum):
    """How the job came to make progress again."""

    IN_PLACE = "in place"
    """By itself."""
    RESTART = "by restart"
    """The command ended, and was started again with --resume."""
    STUCK = "stuck"
    """Not within its deadline; the campaign ended the command and started it again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One injection that happened."""

    index: int
    kind: str
    aimed: str
    """Stage that it was aimed at."""
    hit: str
    """What ran when it happened."""
    began_at: float
    ended_at: float
    """When it was undone."""
    recovery: Recovery
    num_restarts: int
    seconds: float
    """From its beginning to progress: an iteration has committed that was sampled after the fault was undone."""
    words: str = ""
    """What the command said when it ended."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One injection that did not happen."""

    index: int
    kind: str
    aimed: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """A whole campaign."""

    seed: int
    machine: str
    seconds: float
    num_iterations: int
    """Committed while it ran."""
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    violations: tuple[Violation, ...]
    num_late_restarts: int = 0
    """Times that the command ended after the job had seemed well again."""
    leftovers: tuple[str, ...] = ()
    """Processes that a command has left running."""
    aborted: str = ""
    """Why it ended early; empty where it did not."""

    @property
    def is_good(self) -> bool:
        """Every invariant held, the job made progress after each injection within its deadline, nothing was left."""
        stuck = any(outcome.recovery is Recovery.STUCK for outcome in self.outcomes)
        return not (self.violations or stuck or self.leftovers or self.aborted)


RESULT: TypeAdapter[Result] = TypeAdapter(Result)


@dataclass(slots=True)
class Line:
    """One row of the summary."""

    name: str
    num: int = 0
    num_in_place: int = 0
    num_by_restart: int = 0
    num_stuck: int = 0
    num_violations: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median_seconds(self) -> float:
        return median(self.seconds) if self.seconds else 0.0

    @property
    def worst_seconds(self) -> float:
        return max(self.seconds, default=0.0)


def blame(violations: Sequence[Violation], outcomes: Sequence[Outcome]) -> list[int | None]:
    """Return for each violation the index of the newest injection before it, None where there was none."""
    found: list[int | None] = []
    for violation in violations:
        before = [outcome for outcome in outcomes if outcome.began_at <= violation.at]
        found.append(max(before, key=lambda outcome: outcome.began_at).index if before else None)
    return found


def summarize(result: Result, *, by_stage: bool) -> list[Line]:
    """Return the summary by kind, or by the stage that was hit, with the totals as the last line."""
    blamed = blame(result.violations, result.outcomes)
    lines: dict[str, Line] = {}
    total = Line("all")
    for outcome in result.outcomes:
        name = outcome.hit if by_stage else outcome.kind
        for line in (lines.setdefault(name, Line(name)), total):
            line.num += 1
            line.num_in_place += outcome.recovery is Recovery.IN_PLACE
            line.num_by_restart += outcome.recovery is Recovery.RESTART
            line.num_stuck += outcome.recovery is Recovery.STUCK
            line.num_violations += blamed.count(outcome.index)
            line.seconds.append(outcome.seconds)
    return [*sorted(lines.values(), key=lambda line: line.name), total]
