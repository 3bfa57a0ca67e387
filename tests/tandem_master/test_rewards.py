"""The reward of a response, the length reward and the advantages (report, sections 2.3.1 to 2.3.3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.recipe import LengthRewardSpec, ObjectiveName
from tandem_master.rewards.group import advantages, length_weight
from tandem_master.rewards.length import length_rewards
from tandem_master.rewards.rule import exact_match

GROUPS = st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 500), st.booleans()), min_size=2, max_size=16)


def test_a_response_matches_its_answer_without_surrounding_white_space() -> None:
    assert exact_match(" 1284\n", "1284 ") == 1.0


def test_a_response_that_only_contains_its_answer_does_not_match() -> None:
    assert exact_match("12845", "1284") == 0.0


def test_the_shortest_correct_response_gains_a_half_and_the_longest_loses_it() -> None:
    rewards = length_rewards(np.array([10, 20, 30]), np.array([True, True, True]))

    assert rewards.tolist() == [0.5, 0.0, -0.5]


def test_a_wrong_response_never_gains_by_its_length() -> None:
    rewards = length_rewards(np.array([10, 15, 30]), np.array([False, False, False]))

    assert rewards.tolist() == [0.0, 0.0, -0.5]


def test_responses_of_the_same_length_get_no_length_reward() -> None:
    rewards = length_rewards(np.array([12, 12, 12]), np.array([True, False, True]))

    assert rewards.tolist() == [0.0, 0.0, 0.0]


def test_shortest_and_longest_are_over_correct_and_wrong_responses_together() -> None:
    rewards = length_rewards(np.array([5, 10, 25]), np.array([False, True, False]))

    assert rewards.tolist() == pytest.approx([0.0, 0.25, -0.5])


@given(GROUPS)
def test_length_rewards_stay_within_a_half(group: list[tuple[float, int, bool]]) -> None:
    _, lengths, correct = zip(*group, strict=True)

    rewards = length_rewards(np.array(lengths), np.array(correct))

    assert np.all(np.abs(rewards) <= 0.5)


def test_the_length_reward_begins_after_the_warm_up_and_is_constant_then() -> None:
    spec = LengthRewardSpec(weight=0.3, warmup_iterations=2)

    assert [length_weight(spec, iteration) for iteration in (1, 2, 3, 9)] == [0.0, 0.0, 0.3, 0.3]


def test_an_advantage_is_the_reward_minus_the_mean_of_the_group() -> None:
    values = advantages(np.array([1.0, 0.0, 0.0, 1.0]), np.array([3, 9, 4, 7]), np.array([1, 0, 0, 1], dtype=bool), 0.0)

    assert values.tolist() == [0.5, -0.5, -0.5, 0.5]


def test_the_length_reward_is_part_of_reward_and_baseline() -> None:
    values = advantages(np.array([1.0, 1.0]), np.array([10, 20]), np.array([True, True]), 0.4)

    assert values.tolist() == pytest.approx([0.2, -0.2])


@given(GROUPS, st.floats(0, 2))
def test_the_advantages_of_a_group_sum_to_zero(group: list[tuple[float, int, bool]], weight: float) -> None:
    rewards, lengths, correct = zip(*group, strict=True)

    values = advantages(np.array(rewards), np.array(lengths), np.array(correct), weight)

    assert values.sum() == pytest.approx(0.0, abs=1e-9)


def test_rloo_compares_each_response_with_the_mean_of_the_others() -> None:
    rewards, same, wrong = np.array([1.0, 0.0, 0.5]), np.array([1, 1, 1]), np.zeros(3, dtype=bool)

    values = advantages(rewards, same, wrong, 0.0, ObjectiveName.RLOO)

    np.testing.assert_allclose(values, [1.0 - 0.25, 0.0 - 0.75, 0.5 - 0.5])


@pytest.mark.parametrize("objective", [ObjectiveName.GRPO, ObjectiveName.DAPO])
def test_grpo_measures_rewards_in_standard_deviations_of_their_group(objective: ObjectiveName) -> None:
    same, wrong = np.array([1, 1, 1, 1]), np.zeros(4, dtype=bool)

    values = advantages(np.array([3.0, 1.0, 3.0, 1.0]), same, wrong, 0.0, objective)

    np.testing.assert_allclose(values, [1.0, -1.0, 1.0, -1.0])


@pytest.mark.parametrize("objective", ObjectiveName)
def test_equal_rewards_credit_nobody_by_any_objective(objective: ObjectiveName) -> None:
    values = advantages(np.full(3, 0.1), np.array([4, 4, 4]), np.zeros(3, dtype=bool), 0.0, objective)

    np.testing.assert_allclose(values, np.zeros(3), atol=1e-15)
