"""The batch of one iteration: groups spread over optimizer steps, samples over ranks. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_api.engine import Sample

Steps = tuple[tuple[tuple[Sample, ...], ...], ...]
"""Samples by optimizer step, then by rank of one pod."""


@dataclass(frozen=True, slots=True)
class PodRanks:
    """The ranks of one pod; pods are given in the order of their ranks."""

    pod: str
    num_ranks: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Every sample of an iteration exactly once. All ranks have the same steps; a rank's share may be empty."""

    steps: Mapping[str, Steps]
    """By pod."""
    samples_per_step: tuple[int, ...]
    """Over all ranks."""

    @property
    def num_samples(self) -> int:
        return sum(self.samples_per_step)


def plan_batch(groups: Sequence[Sequence[Sample]], pods: Sequence[PodRanks], num_steps: int, seed: int) -> Batch:
    """Return the batch: groups shuffled and dealt to at most `num_steps` steps, no step empty, then each step's samples
    to the ranks so that their tokens are balanced."""
    shuffled = [group for group in groups if group]
    random.Random(seed).shuffle(shuffled)
    steps = [
        [sample for group in shuffled[step::num_steps] for sample in group]
        for step in range(min(num_steps, len(shuffled)))
    ]
    num_ranks = sum(pod.num_ranks for pod in pods)
    shares = [deal(samples, num_ranks) for samples in steps]
    by_pod: dict[str, Steps] = {}
    first = 0
    for pod in pods:
        by_pod[pod.pod] = tuple(share[first : first + pod.num_ranks] for share in shares)
        first += pod.num_ranks
    return Batch(by_pod, tuple(len(samples) for samples in steps))


def deal(samples: Sequence[Sample], num_ranks: int) -> tuple[tuple[Sample, ...], ...]:
    """Return each rank's samples: the longest first, each to the rank that has the fewest tokens so far."""
    shares: list[list[Sample]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for sample in sorted(samples, key=lambda sample: -len(sample.token_ids)):
        rank = loads.index(min(loads))
        shares[rank].append(sample)
        loads[rank] += len(sample.token_ids)
    return tuple(tuple(share) for share in shares)
