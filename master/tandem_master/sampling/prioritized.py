"""Problems in proportion to how often the policy fails at them (report, section 2.3.4)."""

from collections.abc import Mapping, Sequence

import numpy as np

from tandem_master.sampling.state import Tally


def draw_prioritized(
    problem_ids: Sequence[str], tallies: Mapping[str, Tally], num_problems: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Return `num_problems` problems, drawn in proportion to 1 - s_i and without repetition where there are enough.

    A problem that has not been tried counts as s_i = 0. Problems that always succeed are drawn, evenly, only where
    the others do not suffice; more problems than there are come in whole passes first.
    """
    passes, rest = divmod(num_problems, len(problem_ids))
    weights = failure_rates(problem_ids, tallies)
    candidates = np.flatnonzero(weights)
    chosen = _weighted(candidates, weights, min(rest, len(candidates)), rng)
    others = np.setdiff1d(np.arange(len(problem_ids)), candidates)
    chosen += rng.choice(others, size=rest - len(chosen), replace=False).tolist() if len(chosen) < rest else []
    whole = [index for _ in range(passes) for index in rng.permutation(len(problem_ids)).tolist()]
    return tuple(problem_ids[index] for index in whole + chosen)


def failure_rates(
    problem_ids: Sequence[str], tallies: Mapping[str, Tally]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 1 - s_i of each problem, float64 [num_problems]."""
    return np.array([1.0 - tallies[item].success_rate if item in tallies else 1.0 for item in problem_ids])


def _weighted(
    candidates: np.ndarray[tuple[int], np.dtype[np.int64]],
    weights: np.ndarray[tuple[int], np.dtype[np.float64]],
    num_problems: int,
    rng: np.random.Generator,
) -> list[int]:
    if num_problems == 0:
        return []
    probabilities = weights[candidates] / weights[candidates].sum()
    chosen: list[int] = rng.choice(candidates, size=num_problems, replace=False, p=probabilities).tolist()
    return chosen
