"""The ranks of a pod: who stands where, and who is given which samples."""

from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks, split_of

SPLITS = st.builds(
    TrainerSplit,
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 3]),
    expert=st.sampled_from([1, 2, 4]),
    expert_tensor=st.sampled_from([1, 2]),
)


@st.composite
def pods(draw: st.DrawFn) -> tuple[PodRanks, ...]:
    """The pods of a job, all alike: with a split whose groups fit in each, or with one that spans them."""
    split = draw(SPLITS)
    num_ranks = split.pipeline * lcm(split.tensor, split.expert * split.expert_tensor) * draw(st.integers(1, 3))
    num_pods = draw(st.sampled_from([number for number in range(1, num_ranks + 1) if num_ranks % number == 0]))
    return PodRanks(split, num_ranks // num_pods, num_pods).pods()


@given(pods())
def test_every_rank_of_the_job_has_a_number_of_its_own(pods: tuple[PodRanks, ...]) -> None:
    numbers = [pod.number(local) for pod in pods for local in range(pod.num_ranks)]

    assert sorted(numbers) == list(range(len(numbers)))
    assert pods[0].number(0) == 0


@given(pods())
def test_megatron_gives_a_rank_of_that_number_the_same_place(pods: tuple[PodRanks, ...]) -> None:
    """Its order is tensor, context, expert, data, pipeline, the first changing fastest."""
    for pod in pods:
        for local in range(pod.num_ranks):
            number, place, split = pod.number(local), pod.place(local), pod.split
            per_stage = pod.num_pods * pod.num_ranks // split.pipeline
            assert place.tensor == number % split.tensor
            assert place.pipeline == number // per_stage
            assert place.expert_tensor == number % split.expert_tensor
            assert place.expert == number // split.expert_tensor % split.expert
            assert pod.shares[pod.share(local)] == number % per_stage // split.tensor


@given(pods())
def test_every_share_of_a_batch_is_given_to_one_whole_copy_of_the_model(pods: tuple[PodRanks, ...]) -> None:
    split, num_ranks = pods[0].split, pods[0].num_ranks * pods[0].num_pods
    takers = sorted(
        (pod.shares[pod.share(local)], pod.place(local).pipeline, pod.place(local).tensor)
        for pod in pods
        for local in range(pod.num_ranks)
    )

    assert takers == [
        (share, stage, tensor)
        for share in range(num_ranks // split.pipeline // split.tensor)
        for stage in range(split.pipeline)
        for tensor in range(split.tensor)
    ]


@given(pods())
def test_a_pod_that_can_hold_the_whole_model_does(pods: tuple[PodRanks, ...]) -> None:
    split = pods[0].split
    parts = {
        (stage, tensor, expert, expert_tensor)
        for stage in range(split.pipeline)
        for tensor in range(split.tensor)
        for expert in range(split.expert)
        for expert_tensor in range(split.expert_tensor)
    }
    needed = {(stage, "tensor", tensor, 0) for stage, tensor, _, _ in parts}
    needed |= {(stage, "expert", expert, cut) for stage, _, expert, cut in parts}
    held = [
        {(place.pipeline, "tensor", place.tensor, 0) for place in pod.places()}
        | {(place.pipeline, "expert", place.expert, place.expert_tensor) for place in pod.places()}
        for pod in pods
    ]

    assert set.union(*held) == needed
    assert not pods[0].is_whole or all(pod == needed for pod in held)


def test_of_two_pods_with_one_rank_each_both_are_given_the_samples_of_the_one_model() -> None:
    pods = PodRanks(TrainerSplit(tensor=2), 1, num_pods=2).pods()

    assert [pod.shares for pod in pods] == [(0,), (0,)]
    assert [pod.places()[0].tensor for pod in pods] == [0, 1]
    assert [pod.is_whole for pod in pods] == [False, False]


def test_pods_that_span_stages_hold_matrices_of_one_stage_together() -> None:
    pods = PodRanks(TrainerSplit(tensor=2, pipeline=2), 2, num_pods=4).pods()

    assert [pod.shares for pod in pods] == [(0,), (1,), (0,), (1,)]
    assert [{place.pipeline for place in pod.places()} for pod in pods] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize(
    ("split", "tensor", "pipeline", "expert"),
    [
        (TrainerSplit(tensor=2), [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]),
        (TrainerSplit(pipeline=2), [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]),
        (TrainerSplit(tensor=2, expert=4), [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3]),
    ],
)
def test_places_of_four_ranks(split: TrainerSplit, tensor: list[int], pipeline: list[int], expert: list[int]) -> None:
    places = PodRanks(split, 4).places()

    assert [place.tensor for place in places] == tensor
    assert [place.pipeline for place in places] == pipeline
    assert [place.expert for place in places] == expert


def test_a_split_is_what_the_job_says() -> None:
    parallelism = TrainerParallelism(tensor=2, pipeline=3, virtual_pipeline=4, expert=5, expert_tensor=6)

    assert split_of(parallelism) == TrainerSplit(tensor=2, pipeline=3, virtual_pipeline=4, expert=5, expert_tensor=6)
