"""What a run's curves say. Pure."""

from collections.abc import Sequence
from statistics import fmean

LAST = 5
"""Iterations at the end of a run that its result is the mean of."""


def final(values: Sequence[float]) -> float:
    """Return the mean of the last values."""
    return fmean(values[-LAST:])


def spread(values: Sequence[float]) -> float:
    """Return how far apart the largest and the smallest are."""
    return max(values) - min(values)


def iterations_to(level: float, accuracies: Sequence[float]) -> int | None:
    """Return after how many iterations the level is reached; None: never. The first value is before the first one."""
    return next((index for index, value in enumerate(accuracies) if value >= level), None)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of curves, as long as the shortest."""
    return [fmean(values) for values in zip(*curves, strict=False)]


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the mean distance of two curves, over the iterations that both have."""
    return fmean(abs(a - b) for a, b in zip(one, other, strict=False))
