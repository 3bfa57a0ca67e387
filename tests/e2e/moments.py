"""At what moments of a job something is killed, and what a kill has hit, by the job's own diary."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from random import Random
from statistics import median

from tandem_api.history import IterationRecord, PhaseRecord, Record, RunEnded, RunStarted, SwitchRecord
from tandem_api.job.status import Direction, Phase

LAST_ITERATIONS = 4
"""None waits for one of the last iterations: a job that has ended cannot be killed."""


class Doing(StrEnum):
    """What a job is at."""

    COMING_BACK = "coming back"
    """It starts, or a part of it has been killed: no switch since, no phase, no commit."""
    TO_INFER = "to sampling"
    INFER = "sampling"
    TO_TRAIN = "to training"
    TRAIN = "training"


GUESSED_SECONDS = {
    Doing.COMING_BACK: 12.0,
    Doing.TO_INFER: 0.2,
    Doing.INFER: 0.3,
    Doing.TO_TRAIN: 0.1,
    Doing.TRAIN: 0.15,
}
"""About what an idle machine of 2 CPU cores takes, the last four after the first time."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL, planned."""

    what: str
    iteration: int
    """It waits until so many are committed, and for one since the last kill."""
    doing: Doing
    share: float
    """When: this share of what this usually takes, after its beginning."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One SIGKILL, done."""

    what: str
    iteration: int
    """The last that was committed."""
    doing: Doing


def planned_kills(seed: int, num_kills: int, num_iterations: int, shares: dict[str, float]) -> list[Kill]:
    """Return kills at random, spread over the job and over all that it does.

    The n-th waits for an iteration at random in the n-th of equal parts of the job. Of each thing that a job does as
    many find it there, in an order at random, each at a moment at random. `shares`: of what is killed.
    """
    random = Random(seed)
    part = (num_iterations - LAST_ITERATIONS) / num_kills
    whats = random.choices([*shares], [*shares.values()], k=num_kills)
    doings = random.sample([*Doing] * ceil(num_kills / len(Doing)), num_kills)
    iterations = [int((number + random.random()) * part) for number in range(num_kills)]
    return [
        Kill(what, iteration, doing, random.random())
        for what, iteration, doing in zip(whats, iterations, doings, strict=True)
    ]


def doing_of(since_kill: Sequence[Record]) -> Doing:
    """Return what a job is at, by what its diary says since the last kill, oldest first.

    A switch writes the record of the phase before it when it begins, and its own when it ends.
    """
    for record in reversed(since_kill):
        match record:
            case RunStarted() | RunEnded():
                return Doing.COMING_BACK
            case SwitchRecord():
                return Doing.INFER if record.direction is Direction.TRAIN_TO_INFER else Doing.TRAIN
            case PhaseRecord():
                return Doing.TO_TRAIN if record.phase is Phase.INFER else Doing.TO_INFER
            case IterationRecord():
                return Doing.TO_INFER
    return Doing.COMING_BACK


def committed(records: Sequence[Record]) -> int:
    """Return the iteration up to which a job has come, where it has gone back that one."""
    for record in reversed(records):
        if isinstance(record, RunStarted | IterationRecord):
            return record.iteration
    return 0


def usual_seconds(records: Sequence[Record]) -> dict[Doing, float]:
    """Return how long a job takes for each thing: the median of what its diary has of it, else a guess."""
    found: dict[Doing, list[float]] = {doing: [] for doing in GUESSED_SECONDS}
    for record in records:
        match record:
            case SwitchRecord() if not record.first:
                into_infer = record.direction is Direction.TRAIN_TO_INFER
                found[Doing.TO_INFER if into_infer else Doing.TO_TRAIN].append(record.seconds)
            case PhaseRecord():
                found[Doing.INFER if record.phase is Phase.INFER else Doing.TRAIN].append(record.seconds)
    return {doing: median(seconds or [GUESSED_SECONDS[doing]]) for doing, seconds in found.items()}
