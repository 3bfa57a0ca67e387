"""The ranks of a pod: who stands where, and who is given which samples."""

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
def pods(draw: st.DrawFn) -> list[PodRanks]:
    """The pods of a job, all alike, with a split whose groups fit in each."""
    split = draw(SPLITS)
    num_ranks = split.pipeline * max(split.tensor * 2, split.expert * split.expert_tensor) * draw(st.integers(1, 2))
    num_pods = draw(st.integers(1, 3))
    return [PodRanks(split, num_ranks, num_pods, ordinal) for ordinal in range(num_pods)]


@given(pods())
def test_every_rank_of_the_job_has_a_number_of_its_own(pods: list[PodRanks]) -> None:
    numbers = [pod.number(local) for pod in pods for local in range(pod.num_ranks)]

    assert sorted(numbers) == list(range(len(numbers)))
    assert pods[0].number(0) == 0


@given(pods())
def test_megatron_gives_a_rank_of_that_number_the_same_place(pods: list[PodRanks]) -> None:
    """Its order is tensor, context, expert, data, pipeline, the first changing fastest."""
    for pod in pods:
        for local in range(pod.num_ranks):
            number, place, split = pod.number(local), pod.place(local), pod.split
            per_stage = pod.num_pods * pod.num_ranks // split.pipeline
            assert place.tensor == number % split.tensor
            assert place.pipeline == number // per_stage
            assert place.expert_tensor == number % split.expert_tensor
            assert place.expert == number // split.expert_tensor % split.expert
            shares_before = pod.ordinal * pod.num_shares
            assert shares_before + pod.share(local) == number % per_stage // split.tensor


@given(pods())
def test_every_share_of_a_pod_is_given_to_one_whole_copy_of_the_model(pods: list[PodRanks]) -> None:
    pod = pods[0]
    takers = sorted(
        (pod.share(local), pod.place(local).pipeline, pod.place(local).tensor) for local in range(pod.num_ranks)
    )

    assert takers == [
        (share, stage, tensor)
        for share in range(pod.num_shares)
        for stage in range(pod.split.pipeline)
        for tensor in range(pod.split.tensor)
    ]


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
