"""How the groups of an iteration become optimizer steps and shares of ranks."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tandem_api.engine import Sample
from tandem_master.batch import Batch, PodShares, deal, plan_batch


def sample(mark: int, num_tokens: int = 4) -> Sample:
    """A sample that its advantage tells apart."""
    return Sample(
        token_ids=tuple(range(num_tokens)),
        first_loss_token=1,
        sampled_logprobs=(-1.0,) * (num_tokens - 1),
        advantage=mark,
    )


def groups_of(sizes: Sequence[Sequence[int]]) -> list[list[Sample]]:
    """Groups of samples of these lengths, numbered through."""
    marks = iter(range(10_000))
    return [[sample(next(marks), length) for length in group] for group in sizes]


def marks_by_step(batch: Batch) -> list[list[float]]:
    """The advantages of each step, over all pods and ranks."""
    num_steps = len(batch.samples_per_step)
    return [
        [item.advantage for steps in batch.steps.values() for share in steps[step] for item in share]
        for step in range(num_steps)
    ]


LENGTHS = st.lists(st.lists(st.integers(2, 40), min_size=1, max_size=5), min_size=1, max_size=20)


def pods_of(counts: Sequence[int]) -> list[PodShares]:
    """Pods with so many shares each."""
    return [
        PodShares(f"pod-{pod}", tuple(range(sum(counts[:pod]), sum(counts[: pod + 1])))) for pod in range(len(counts))
    ]


PODS = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(pods_of)


@given(LENGTHS, PODS, st.integers(1, 8), st.integers(0, 99))
def test_every_sample_is_in_the_batch_exactly_once(
    sizes: list[list[int]], pods: list[PodShares], num_steps: int, seed: int
) -> None:
    groups = groups_of(sizes)

    batch = plan_batch(groups, pods, num_steps, seed)

    found = Counter(mark for step in marks_by_step(batch) for mark in step)
    assert found == Counter(item.advantage for group in groups for item in group)


@given(LENGTHS, PODS, st.integers(1, 8), st.integers(0, 99))
def test_the_counts_are_those_of_all_ranks(
    sizes: list[list[int]], pods: list[PodShares], num_steps: int, seed: int
) -> None:
    batch = plan_batch(groups_of(sizes), pods, num_steps, seed)

    assert list(batch.samples_per_step) == [len(step) for step in marks_by_step(batch)]


@given(LENGTHS, PODS, st.integers(1, 8), st.integers(0, 99))
def test_all_ranks_have_the_same_steps_and_no_step_is_empty(
    sizes: list[list[int]], pods: list[PodShares], num_steps: int, seed: int
) -> None:
    batch = plan_batch(groups_of(sizes), pods, num_steps, seed)

    shapes = {pod.pod: [len(step) for step in batch.steps[pod.pod]] for pod in pods}
    assert shapes == {pod.pod: [len(pod.shares)] * min(num_steps, len(sizes)) for pod in pods}
    assert min(batch.samples_per_step) > 0


@given(LENGTHS, st.integers(1, 8), st.integers(0, 99))
def test_groups_are_spread_evenly_and_stay_together(sizes: list[list[int]], num_steps: int, seed: int) -> None:
    groups = groups_of(sizes)

    steps = marks_by_step(plan_batch(groups, [PodShares("pod-0", (0, 1))], num_steps, seed))

    group_of = {item.advantage: number for number, group in enumerate(groups) for item in group}
    per_step = [len({group_of[mark] for mark in step}) for step in steps]
    assert sum(per_step) == len(groups)
    assert max(per_step) - min(per_step) <= 1


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 6))
def test_no_share_exceeds_another_by_more_than_one_sample(lengths: list[int], num_shares: int) -> None:
    shares = deal([sample(i, length) for i, length in enumerate(lengths)], num_shares)

    loads = [sum(len(item.token_ids) for item in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


def test_the_longest_sample_has_a_rank_of_its_own_where_the_others_are_short() -> None:
    shares = deal([sample(0, 5), sample(1, 30), sample(2, 5)], 2)

    assert [[item.advantage for item in share] for share in shares] == [[1], [0, 2]]


def test_the_order_of_groups_depends_on_the_seed_alone() -> None:
    groups = groups_of([[3, 3]] * 12)
    pods = [PodShares("pod-0", (0,))]

    batches = [marks_by_step(plan_batch(groups, pods, 4, seed)) for seed in (7, 7, 8)]

    assert batches[0] == batches[1]
    assert batches[0] != batches[2]


def test_groups_without_a_sample_make_no_step() -> None:
    batch = plan_batch([(), groups_of([[4, 4]])[0], ()], [PodShares("pod-0", (0,))], 4, 1)

    assert batch.samples_per_step == (2,)


def test_nothing_to_train_is_a_batch_without_steps() -> None:
    batch = plan_batch([], [PodShares("pod-0", (0, 1))], 4, 1)

    assert batch.num_samples == 0
    assert batch.steps == {"pod-0": ()}


def test_pods_that_hold_a_model_together_are_given_the_same_samples() -> None:
    pods = [PodShares("pod-0", (0,)), PodShares("pod-1", (0,)), PodShares("pod-2", (1,)), PodShares("pod-3", (1,))]

    batch = plan_batch(groups_of([[4, 6], [8, 2]]), pods, 1, seed=1)

    assert batch.steps["pod-0"] == batch.steps["pod-1"] != batch.steps["pod-2"] == batch.steps["pod-3"]
    assert batch.samples_per_step == (4,)
    assert batch.num_samples == 4
