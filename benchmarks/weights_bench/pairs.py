"""What a plan moves from a trainer's pod to a serving pod, over what that pod needs: for every pair of layouts.

A ratio of bytes does not depend on the sizes, so the policies are small. Needed is each byte that any rank of the
serving pod holds, counted once, by marking it; padding is nobody's.
"""

from collections.abc import Iterable, Iterator
from math import lcm

import numpy as np
from benchmarks.report.result import Result
from benchmarks.weights_bench.policies import small_policies

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.split import SplitRefused, check_trainer_split
from tandem_checkpoint.layouts.place import ServerPlace, TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter, held_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.reshard.copies import Kind
from tandem_checkpoint.reshard.placement import Held, placement_of
from tandem_checkpoint.reshard.plan import plan

ITEM_BYTES = 2
EXPERT_SPLITS = ((1, 1), (2, 1), (1, 2), (2, 2))
"""Expert and expert-tensor parallel sizes."""
STAGES: tuple[tuple[int, int | None], ...] = ((1, None), (2, None), (2, 1))
"""Pipeline stages, and the layers of the first one where they are uneven."""


def measure_pairs() -> Result:
    """Return the worst ratio of all pairs, and how many pairs there are."""
    ratios: dict[str, float] = {}
    for name, policy in small_policies().items():
        have = {str(split): _trainer_held(policy, split) for split in trainer_splits(policy)}
        for server in server_splits(policy):
            want = _server_held(policy, server)
            needed = needed_bytes(want)
            for words, held in have.items():
                ratios[f"{name}: {words} to {len(server)} {server[0]}"] = moved_bytes(held, want) / needed
    worst = max(ratios, key=lambda pair: abs(ratios[pair] - 1))
    figures = {"bytes_moved_over_needed": ratios[worst], "layout_pairs": len(ratios)}
    return Result(figures, {"worst": worst, "not_one": {pair: it for pair, it in ratios.items() if it != 1}})


def trainer_splits(policy: PolicyConfig) -> Iterator[TrainerSplit]:
    """Yield the splits that the policy can be trained in."""
    for tensor in (1, 2, 4):
        for pipeline, first in STAGES:
            for expert, expert_tensor in EXPERT_SPLITS if policy.num_experts else EXPERT_SPLITS[:1]:
                split = TrainerSplit(
                    tensor, pipeline, expert=expert, expert_tensor=expert_tensor, first_stage_layers=first
                )
                try:
                    check_trainer_split(policy, split)
                except SplitRefused:
                    continue
                yield split


def server_splits(policy: PolicyConfig) -> Iterator[tuple[ServerPlace, ...]]:
    """Yield the places of a server's ranks: whole, cut in two, and with whole experts on each of two."""
    yield (ServerPlace(),)
    for has_expert_parallel in (False, True) if policy.num_experts else (False,):
        yield tuple(ServerPlace(2, rank, has_expert_parallel) for rank in range(2))


def moved_bytes(have: list[Held], want: list[Held]) -> int:
    """Return the bytes that cross the network from the pod that has them to the one that wants them."""
    owners, receivers = (1 + max(one.rank for one in held) for held in (have, want))
    copies = plan(
        placement_of(["train"] * owners, have),
        placement_of(["serve"] * receivers, want),
    ).copies()
    return int(copies.num_bytes[copies.kinds == Kind.NETWORK].sum())


def needed_bytes(want: list[Held]) -> int:
    """Return the bytes that a pod's ranks want, each once."""
    marks = {one.tensor: np.zeros(one.shape, np.int64) for one in want}
    for one in want:
        box = tuple(slice(start, stop) for start, stop in zip(one.start, one.stop, strict=True))
        marks[one.tensor][box] = one.item_bytes
    return int(sum(mark.sum() for mark in marks.values()))


def _trainer_held(policy: PolicyConfig, split: TrainerSplit) -> list[Held]:
    num_ranks = lcm(split.tensor, split.expert * split.expert_tensor) * split.pipeline
    return _held(policy, (trainer_layout(policy, place) for place in PodRanks(split, num_ranks).places()))


def _server_held(policy: PolicyConfig, places: Iterable[ServerPlace]) -> list[Held]:
    return _held(policy, (server_layout(policy, place) for place in places))


def _held(policy: PolicyConfig, layouts: Iterable[tuple[LocalParameter, ...]]) -> list[Held]:
    rules = architecture_of(policy.architecture).rules(policy)
    shapes = {name: shape for rule in rules for name, shape in rule.tensors(policy)}
    return [one for rank, layout in enumerate(layouts) for one in held_of(rank, layout, shapes, ITEM_BYTES)]
