"""Ranks that share sequences: they hold the same parameters, as data-parallel ranks do, and are given one share."""

from dataclasses import replace
from math import lcm

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tests.tandem_checkpoint.layouts.models import shapes_of, split_models

Case = tuple[PolicyConfig, TrainerSplit]
CONTEXTS = st.sampled_from([2, 4])


def pod_of(split: TrainerSplit, copies: int = 1) -> PodRanks:
    """Return the smallest pod that has whole models in a split, or some of them."""
    per_stage = lcm(split.tensor * split.context, split.expert * split.expert_tensor)
    return PodRanks(split, per_stage * split.pipeline * copies)


@settings(max_examples=40, deadline=None)
@given(split_models(), CONTEXTS, st.integers(1, 2))
def test_a_rank_holds_what_one_without_a_context_group_holds(case: Case, context: int, copies: int) -> None:
    policy, split = case

    for place in set(pod_of(replace(split, context=context), copies).places()):
        assert trainer_layout(policy, place) == trainer_layout(policy, replace(place, split=split))


@settings(max_examples=40, deadline=None)
@given(split_models(), CONTEXTS)
def test_the_ranks_of_a_context_group_share_the_work_of_an_export(case: Case, context: int) -> None:
    policy, split = case
    counts = {name: np.zeros(shape, int) for name, shape in shapes_of(policy).items()}

    shares = shares_of(policy, pod_of(replace(split, context=context)).places())

    for region in (region for share in shares for region in share):
        counts[region.tensor][tuple(map(slice, region.start, region.stop))] += 1
    assert {int(number) for counted in counts.values() for number in np.unique(counted)} == {1}


@given(split_models(), CONTEXTS, st.integers(1, 2))
def test_they_are_given_the_same_samples(case: Case, context: int, copies: int) -> None:
    """Megatron counts tensor ranks first, then context ranks, then data-parallel ones, within a stage."""
    split = replace(case[1], context=context)
    pod = pod_of(split, copies)

    for local in range(pod.num_ranks):
        of_stage = local % (pod.num_ranks // split.pipeline)
        assert pod.share(local) == of_stage // split.tensor // context
    assert pod.num_shares == pod.num_ranks // (split.tensor * split.pipeline * context)
