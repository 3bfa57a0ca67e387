"""Long responses in pieces: budgets, requests and stitching (report, section 2.6.2)."""

import pytest

from tandem_api.trajectory import TrajectoryState
from tandem_master.errors import RolloutError
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Limits, allowance, extend, plan_asks
from tests.tandem_master.texts import segment, trajectory

LIMITS = Limits(budget_tokens=4, max_length_tokens=10)


def completion(reason: FinishReason, *token_ids: int) -> Completion:
    return Completion(token_ids, tuple(-0.5 for _ in token_ids), reason)


def names(ask: Ask) -> list[str]:
    return [item.id for item in ask.trajectories]


def test_a_response_that_stops_is_finished() -> None:
    longer = extend(trajectory("t"), completion(FinishReason.STOP, 5, 0), 3, LIMITS)

    assert longer.state is TrajectoryState.FINISHED
    assert longer.finish_reason == "stop"
    assert longer.response_token_ids == (5, 0)


def test_a_response_that_has_used_its_budget_goes_on_in_the_next_iteration() -> None:
    longer = extend(trajectory("t"), completion(FinishReason.LENGTH, 5, 5, 5, 5), 3, LIMITS)

    assert longer.state is TrajectoryState.UNFINISHED
    assert longer.finish_reason is None


def test_segments_keep_their_generation_and_their_logprobs() -> None:
    first = extend(trajectory("t"), completion(FinishReason.LENGTH, 5, 5, 5, 5), 3, LIMITS)

    second = extend(first, completion(FinishReason.STOP, 6, 0), 4, LIMITS)

    assert [(item.generation, item.token_ids) for item in second.segments] == [(3, (5, 5, 5, 5)), (4, (6, 0))]
    assert second.segments[1].logprobs == (-0.5, -0.5)


def test_a_response_at_the_longest_length_is_finished() -> None:
    longer = extend(trajectory("t", segment(3, 5, 5, 5, 5)), completion(FinishReason.LENGTH, 6, 6, 6, 6), 4, LIMITS)

    assert longer.state is TrajectoryState.FINISHED
    assert longer.finish_reason == "length"


def test_an_aborted_response_keeps_its_tokens_and_goes_on() -> None:
    longer = extend(trajectory("t"), completion(FinishReason.ABORT, 5, 6), 3, LIMITS)

    assert longer.state is TrajectoryState.UNFINISHED
    assert longer.response_token_ids == (5, 6)


def test_an_abort_before_the_first_token_changes_nothing() -> None:
    assert extend(trajectory("t"), completion(FinishReason.ABORT), 3, LIMITS) == trajectory("t")


def test_a_response_beyond_the_longest_length_is_an_error() -> None:
    with pytest.raises(RolloutError, match=r"trajectory t: .* 11 tokens, more than the 10"):
        extend(trajectory("t"), completion(FinishReason.LENGTH, *[5] * 9), 3, LIMITS)


def test_the_budget_is_per_generation() -> None:
    old_and_new = trajectory("t", segment(2, 5, 5, 5), segment(3, 6))

    assert allowance(old_and_new, 3, LIMITS) == 3


def test_the_allowance_ends_at_the_longest_length() -> None:
    assert allowance(trajectory("t", segment(2, *[5] * 6)), 3, LIMITS) == 2


def test_fresh_trajectories_of_a_group_share_one_request() -> None:
    fresh = [trajectory("1-p-0"), trajectory("1-p-1"), trajectory("1-q-0", group="1-q-0")]

    asks = plan_asks(fresh, 0, LIMITS, seed=1, iteration=1)

    assert [names(ask) for ask in asks] == [["1-p-0", "1-p-1"], ["1-q-0"]]
    assert [ask.max_tokens for ask in asks] == [4, 4]


def test_a_continuation_asks_alone_with_its_tokens_so_far() -> None:
    asks = plan_asks([trajectory("1-p-0", segment(0, 5, 6)), trajectory("1-p-1")], 1, LIMITS, seed=1, iteration=2)

    assert [(names(ask), ask.token_ids) for ask in asks] == [(["1-p-0"], (7, 8, 5, 6)), (["1-p-1"], (7, 8))]


def test_a_trajectory_that_used_this_generations_budget_is_not_asked_for_again() -> None:
    asks = plan_asks([trajectory("1-p-0", segment(1, 5, 5, 5, 5))], 1, LIMITS, seed=1, iteration=2)

    assert asks == ()


def test_no_two_requests_of_a_trajectory_have_the_same_seed() -> None:
    cases = [
        (trajectory("1-p-0"), 1, 1),
        (trajectory("1-p-0"), 1, 2),
        (trajectory("1-p-0"), 2, 1),
        (trajectory("1-p-1"), 1, 1),
    ]

    seeds = [plan_asks([item], 9, LIMITS, seed=seed, iteration=i)[0].seed for item, seed, i in cases]

    assert len(set(seeds)) == len(cases)
    assert max(seeds) < 2**31


def test_what_is_sampled_of_a_trajectory_does_not_depend_on_which_others_are_left() -> None:
    group = [trajectory(f"1-p-{number}") for number in range(4)]

    all_asks = plan_asks(group, 0, LIMITS, seed=1, iteration=1)
    what_is_left = plan_asks([group[3], group[1], group[0]], 0, LIMITS, seed=1, iteration=1)

    assert [names(ask) for ask in what_is_left] == [["1-p-0", "1-p-1"], ["1-p-3"]]
    assert [ask.seed - all_asks[0].seed for ask in what_is_left] == [0, 3]


def test_the_newest_tokens_of_a_response_come_from_as_many_segments_as_it_takes() -> None:
    item = trajectory("1-p-0", segment(0, 3, 4), segment(1, 5), segment(2, 6, 7))

    assert [item.last_response_token_ids(most) for most in (0, 1, 3, 9)] == [
        *((), (7,), (5, 6, 7), (3, 4, 5, 6, 7)),
    ]
