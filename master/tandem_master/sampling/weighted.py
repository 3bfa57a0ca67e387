"""Problems by weight, none again before all others have come as often."""

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def draw_weighted(weights: Floats, num_problems: int, counts: Integers, rng: np.random.Generator) -> list[int]:
    """Return the indices of `num_problems` problems, each drawn in proportion to its weight among those that are left.

    weights: float64 [n]. counts: int64 [n], how often each is drawn already. Problems of weight 0 are drawn, evenly,
    only where the others do not suffice.
    """
    counts = counts.copy()
    chosen: list[int] = []
    while len(chosen) < num_problems:
        fewest = np.flatnonzero(counts == counts.min())
        picked = _draw_once(weights, fewest, min(num_problems - len(chosen), len(fewest)), rng)
        counts[picked] += 1
        chosen += picked
    return chosen


def _draw_once(weights: Floats, among: Integers, num_problems: int, rng: np.random.Generator) -> list[int]:
    """Return different problems of `among`."""
    candidates, others = among[weights[among] > 0], among[weights[among] == 0]
    num_candidates = min(num_problems, len(candidates))
    chosen: list[int] = []
    if num_candidates:
        probabilities = weights[candidates] / weights[candidates].sum()
        chosen += rng.choice(candidates, size=num_candidates, replace=False, p=probabilities).tolist()
    if num_problems > num_candidates:
        chosen += rng.choice(others, size=num_problems - num_candidates, replace=False).tolist()
    return chosen
