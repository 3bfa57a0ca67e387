"""Problems in proportion to how often the policy fails at them (report, section 2.3.4)."""

from collections.abc import Mapping, Sequence

import numpy as np

from tandem_master.sampling.state import Tally
from tandem_master.sampling.weighted import Floats


def failure_rates(problem_ids: Sequence[str], tallies: Mapping[str, Tally]) -> Floats:
    """Return 1 - s_i of each problem, float64 [num_problems]. One that has not been tried counts as s_i = 0."""
    return np.array([1.0 - tallies[item].success_rate if item in tallies else 1.0 for item in problem_ids])
