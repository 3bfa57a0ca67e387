"""The batch of one iteration: groups spread over optimizer steps, samples over data-parallel ranks. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_api.engine import Sample

Steps = tuple[tuple[tuple[Sample, ...], ...], ...]
"""Samples by optimizer step, then by share of one pod."""


@dataclass(frozen=True, slots=True)
class PodShares:
    """Which shares one pod is given. Pods that hold a model together are given the same ones."""

    pod: str
    shares: tuple[int, ...]
    """Their numbers: those of all pods count from 0 without a gap."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Every sample of an iteration in exactly one share. All shares have the same steps; one may be empty."""

    steps: Mapping[str, Steps]
    """By pod."""
    samples_per_step: tuple[int, ...]
    """Over all shares."""

    @property
    def num_samples(self) -> int:
        return sum(self.samples_per_step)


def plan_batch(groups: Sequence[Sequence[Sample]], pods: Sequence[PodShares], num_steps: int, seed: int) -> Batch:
    """Return the batch: groups shuffled and dealt to at most `num_steps` steps, no step empty, then each step's samples
    to the shares so that their tokens are balanced."""
    shuffled = [group for group in groups if group]
    random.Random(seed).shuffle(shuffled)
    steps = [
        [sample for group in shuffled[step::num_steps] for sample in group]
        for step in range(min(num_steps, len(shuffled)))
    ]
    num_shares = len({share for pod in pods for share in pod.shares})
    dealt = [deal(samples, num_shares) for samples in steps]
    by_pod: dict[str, Steps] = {
        pod.pod: tuple(tuple(shares[number] for number in pod.shares) for shares in dealt) for pod in pods
    }
    return Batch(by_pod, tuple(len(samples) for samples in steps))


def deal(samples: Sequence[Sample], num_shares: int) -> tuple[tuple[Sample, ...], ...]:
    """Return each share's samples: the longest first, each to the share that has the fewest tokens so far."""
    shares: list[list[Sample]] = [[] for _ in range(num_shares)]
    loads = [0] * num_shares
    for sample in sorted(samples, key=lambda sample: -len(sample.token_ids)):
        share = loads.index(min(loads))
        shares[share].append(sample)
        loads[share] += len(sample.token_ids)
    return tuple(tuple(share) for share in shares)
