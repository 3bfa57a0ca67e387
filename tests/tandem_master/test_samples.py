"""What the trainer is given of a complete group."""

import pytest

from tandem_master.samples import current_segments, group_samples
from tests.tandem_master.texts import finished, segment, trajectory

OLD = finished(trajectory("old", segment(3, 5, 0)), reward=1.0)
SPLIT = finished(trajectory("split", segment(3, 5, 6), segment(4, 7, 0)), reward=0.0)
NEW = finished(trajectory("new", segment(4, 9, 9, 0)), reward=0.0)
GROUP = (OLD, SPLIT, NEW)


def test_only_the_current_generations_tokens_are_in_the_loss() -> None:
    samples = group_samples(GROUP, 4, 0.0, exclude_old_segments=True)

    assert [item.token_ids for item in samples] == [(7, 8, 5, 6, 7, 0), (7, 8, 9, 9, 0)]
    assert [item.first_loss_token for item in samples] == [4, 2]
    assert samples[0].sampled_logprobs == SPLIT.trajectory.segments[1].logprobs


def test_a_trajectory_that_finished_earlier_counts_in_the_baseline_alone() -> None:
    samples = group_samples(GROUP, 4, 0.0, exclude_old_segments=True)

    assert [item.advantage for item in samples] == pytest.approx([-1 / 3, -1 / 3])


def test_all_response_tokens_are_in_the_loss_where_old_segments_are_not_excluded() -> None:
    samples = group_samples(GROUP, 4, 0.0, exclude_old_segments=False)

    assert [item.first_loss_token for item in samples] == [2, 2, 2]
    assert [len(item.sampled_logprobs) for item in samples] == [2, 4, 3]
    assert [item.num_old_tokens for item in samples] == [2, 2, 0]


def test_where_old_segments_are_excluded_server_and_trainer_are_compared_on_every_token_in_the_loss() -> None:
    samples = group_samples(GROUP, 4, 0.0, exclude_old_segments=True)

    assert [item.num_old_tokens for item in samples] == [0, 0]


def test_the_length_reward_uses_whole_responses() -> None:
    samples = group_samples(GROUP, 4, 1.0, exclude_old_segments=True)

    assert [item.advantage for item in samples] == pytest.approx([-0.5 - 1 / 3, -1 / 3])


def test_pieces_of_one_generation_that_an_abort_parted_are_both_current() -> None:
    segments = (segment(3, 5), segment(4, 6), segment(4, 7))

    assert current_segments(segments, 4) == segments[1:]
