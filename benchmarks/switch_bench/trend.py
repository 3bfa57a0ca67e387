"""Does a quantity grow over many switches? A straight line through the samples, and how likely chance alone draws it.

The p-value is a permutation test's: the share of all orders of the samples, drawn at random, whose line rises at least
as steeply. It is one-sided: only growth is looked for. Neighbouring samples are more alike than distant ones, so the
test finds growth too often rather than too seldom; a slope must be read beside its p-value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_PERMUTATIONS = 4999
SEED = 5
PER_SWITCHES = 100
WARM_UP_SHARE, LEAST_WARM_UP = 0.1, 3
"""What is left out at the start, where caches fill and modules are imported."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through samples."""

    per_100_switches: float
    """Its slope, in the unit of the samples."""
    p_value: float
    """How likely chance alone draws a line that rises at least as steeply."""


def trend(switches: Sequence[int], values: Sequence[float]) -> Trend:
    """Return the trend of values over the numbers of switches at which they were read; at least two of them differ."""
    x = np.asarray(switches, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rng = np.random.default_rng(SEED)
    rising = sum(float(x @ rng.permutation(y) / (x @ x)) >= slope for _ in range(NUM_PERMUTATIONS))
    return Trend(slope * PER_SWITCHES, (1 + rising) / (1 + NUM_PERMUTATIONS))


def num_warm_up(num_samples: int) -> int:
    """Return how many of the first samples are left out."""
    return max(LEAST_WARM_UP, round(WARM_UP_SHARE * num_samples))
