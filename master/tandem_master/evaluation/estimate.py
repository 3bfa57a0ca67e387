"""From scored samples to what an evaluation says. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from tandem_master.rollout.segments import FinishReason


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to one held-out problem."""

    problem_id: str
    number: int
    """Of the problem's samples, from 0."""
    num_tokens: int
    """Length of the response."""
    finish_reason: str
    reward: float | None
    """None where a reward function said nothing."""
    correct: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the samples of one held-out set say. Unscored ones are counted, and take part in nothing else."""

    num_problems: int
    """With a scored sample."""
    num_samples: int
    """Scored."""
    num_unscored: int
    pass_at: Mapping[int, float]
    """By k."""
    mean_reward: float
    """Over problems, of the means of their samples."""
    mean_tokens: float
    """Of scored samples."""
    cut_share: float
    """Of scored samples that ended at the limit of their length."""
    num_tokens: int
    """Of all samples."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that one of k of a problem's samples is correct, drawn without putting back.

    1 - C(n - c, k) / C(n, k): the unbiased estimator of pass@k of Chen et al. 2021, eq. (1) (arXiv:2107.03374). With
    Python's whole numbers it is exact but for the division. Needs k <= num_samples.
    """
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def steps_of_k(num_samples: int) -> tuple[int, ...]:
    """Return the k of which pass@k is told for n samples a problem: 1, and n halved again and again, ascending."""
    steps = {1}
    while num_samples > 1:
        steps.add(num_samples)
        num_samples //= 2
    return tuple(sorted(steps))


def estimate(samples: Sequence[Sample], num_wanted: int) -> Estimate:
    """Return what the samples say; `num_wanted`: samples of each problem. pass@k is over the problems that have at
    least k scored samples, and left out where none has; means of nothing are 0.
    """
    rewards = [[sample.reward for sample in group if sample.reward is not None] for group in _by_problem(samples)]
    correct = [sum(sample.correct for sample in group if sample.reward is not None) for group in _by_problem(samples)]
    counts = [(len(values), right) for values, right in zip(rewards, correct, strict=True) if values]
    scored = [sample for sample in samples if sample.reward is not None]
    cut = sum(sample.finish_reason == FinishReason.LENGTH for sample in scored)
    return Estimate(
        num_problems=len(counts),
        num_samples=len(scored),
        num_unscored=len(samples) - len(scored),
        pass_at={
            k: fmean(pass_at_k(n, c, k) for n, c in counts if n >= k)
            for k in steps_of_k(num_wanted)
            if any(n >= k for n, _ in counts)
        },
        mean_reward=_mean(fmean(values) for values in rewards if values),
        mean_tokens=_mean(sample.num_tokens for sample in scored),
        cut_share=cut / len(scored) if scored else 0.0,
        num_tokens=sum(sample.num_tokens for sample in samples),
    )


def _by_problem(samples: Iterable[Sample]) -> list[list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.problem_id, []).append(sample)
    return list(groups.values())


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else 0.0
