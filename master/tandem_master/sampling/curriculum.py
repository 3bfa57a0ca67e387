"""Easy problems first (report, section 2.3.4): a part of the problems by rank, which moves with the iterations."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from tandem_api.job.sampling import CurriculumSpec
from tandem_master.sampling.state import Tally
from tandem_master.sampling.weighted import Floats, Integers


def difficulties_by_pass_rate(problem_ids: Sequence[str], tallies: Mapping[str, Tally]) -> Floats:
    """Return 1 - the estimated pass rate of each problem, float64 [n]: (correct + 1) / (tried + 2), 1/2 where untried.

    That is Laplace's rule of succession: one lucky try does not make a problem the easiest of all.
    """
    return np.array([_estimated_failure_rate(tallies.get(item)) for item in problem_ids])


def ranked(difficulties: Floats, seed: Sequence[int]) -> Integers:
    """Return the indices of the problems from easy to hard, int64 [n]; equal ones in an order that `seed` gives."""
    shuffled = np.random.default_rng(seed).permutation(len(difficulties))
    order: Integers = shuffled[np.argsort(difficulties[shuffled], kind="stable")]
    return order


def open_ranks(spec: CurriculumSpec, num_ranks: int, num_wanted: int, iteration: int) -> range:
    """Return the ranks that `iteration` (from 1) draws from, at least `num_wanted` where there are as many.

    The easiest `start_share` at first, all after `ramp_iterations`; then the hardest `end_share`.
    """
    progress = (iteration - 1) / spec.ramp_iterations
    if progress >= 1:
        return range(num_ranks - _num_open(spec.end_share, num_ranks, num_wanted), num_ranks)
    share = spec.start_share + (1 - spec.start_share) * progress
    return range(_num_open(share, num_ranks, num_wanted))


def curriculum_weights(order: Integers, ranks: range) -> Floats:
    """Return 1 for each problem whose rank is open and 0 for the others, float64 [n]."""
    weights = np.zeros(len(order))
    weights[order[ranks.start : ranks.stop]] = 1.0
    return weights


def _num_open(share: float, num_ranks: int, num_wanted: int) -> int:
    return min(num_ranks, max(ceil(share * num_ranks), num_wanted))


def _estimated_failure_rate(tally: Tally | None) -> float:
    return 0.5 if tally is None else 1.0 - (tally.num_correct + 1) / (tally.num_tried + 2)
