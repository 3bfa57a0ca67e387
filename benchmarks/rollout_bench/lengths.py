"""How long responses are: lognormal shapes fitted to what others have published. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

LIKENESS = 0.5
"""Share of the variance of log-lengths that responses to one problem have in common. An assumption: Seer
(arXiv:2511.14617) says that they are alike, not how much."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths of responses, cut at the longest that a job allows."""

    median_tokens: float
    sigma: float
    """Standard deviation of the logarithm."""
    max_tokens: int
    budget_tokens: int
    """Of a trajectory in one iteration, where rollouts are partial."""
    source: str
    """Where the shape is from."""

    def draw(self, rng: np.random.Generator, num_groups: int, group_size: int) -> npt.NDArray[np.int64]:
        """Return lengths, tokens, int64 [groups, k]: at least 1, at most max_tokens."""
        common = rng.standard_normal((num_groups, 1))
        own = rng.standard_normal((num_groups, group_size))
        deviation = self.sigma * (sqrt(LIKENESS) * common + sqrt(1 - LIKENESS) * own)
        drawn = np.ceil(self.median_tokens * np.exp(deviation))
        return np.clip(drawn, 1, self.max_tokens).astype(np.int64)


def sigma_of(high_over_median: float, quantile: float) -> float:
    """Return the sigma of a lognormal whose `quantile` is so many times its median."""
    return log(high_over_median) / NormalDist().inv_cdf(quantile)


def median_of(high: float, quantile: float, sigma: float) -> float:
    """Return the median of a lognormal of this sigma whose `quantile` is `high`."""
    return high * exp(-sigma * NormalDist().inv_cdf(quantile))


TAIL = sigma_of(10.0, 0.99)
"""0.99: the 99th percentile is ten medians."""
DISTRIBUTIONS: Mapping[str, Lengths] = {
    "long": Lengths(
        median_tokens=median_of(65_536 / 2, 0.9, TAIL),
        sigma=TAIL,
        max_tokens=65_536,
        budget_tokens=8_192,
        source="Seer, arXiv:2511.14617: at most 65,536 tokens, and the last tenth of the requests takes up to half of "
        "the rollout, so the 90th percentile is half of the longest; the tail as in `short`",
    ),
    "short": Lengths(
        median_tokens=500,
        sigma=TAIL,
        max_tokens=16_384,
        budget_tokens=2_048,
        source="J. Lin, rl_lessons 22b (jiahuanglin.xyz): about lognormal, median 500 tokens, 99th percentile 5,000",
    ),
    "light": Lengths(
        median_tokens=median_of(65_536 / 2, 0.9, TAIL),
        sigma=TAIL / 2,
        max_tokens=65_536,
        budget_tokens=8_192,
        source="an assumption, for comparison: the median of `long` with half its sigma",
    ),
}
