"""Responses that repeat themselves: found in linear time, and exactly where counting by hand finds them."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.recipe import PartialRolloutSpec
from tandem_api.job.repeats import RepeatsSpec
from tandem_master.rollout.phase import aborted
from tandem_master.rollout.repeats import RepeatRule, RepeatWatch
from tandem_master.rollout.segments import Completion, FinishReason, Limits, Piece, extend, plan_asks
from tests.tandem_master.conftest import PROBLEMS, Job, with_spec
from tests.tandem_master.texts import trajectory, unfinished

RULE = RepeatRule(window_tokens=2048, ngram_tokens=16, max_share=0.8)
RULES = st.integers(2, 12).flatmap(
    lambda window: st.builds(
        RepeatRule, st.just(window), st.integers(1, window - 1), st.sampled_from([0.1, 0.29, 0.3, 0.5, 0.8, 1.0])
    )
)
FEW_TOKENS = st.lists(st.integers(0, 2), max_size=60)
LOOPS = st.builds(
    lambda start, period, times, end: [*start, *(period * times), *end],
    st.lists(st.integers(0, 9), max_size=20),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 8),
    st.lists(st.integers(0, 9), max_size=20),
)


def by_hand(rule: RepeatRule, token_ids: Sequence[int]) -> int | None:
    """Count the n-grams of every window anew."""
    for end in range(rule.window_tokens, len(token_ids) + 1):
        window = token_ids[end - rule.window_tokens : end]
        size = rule.ngram_tokens
        ngrams = [tuple(window[start : start + size]) for start in range(len(window) - size + 1)]
        if len(ngrams) - len(set(ngrams)) > rule.max_share * len(ngrams):
            return end
    return None


def parts_of(token_ids: Sequence[int], ends: Sequence[int]) -> list[Sequence[int]]:
    """Cut tokens at `ends`."""
    cuts = sorted({0, len(token_ids), *(end for end in ends if end < len(token_ids))})
    return [token_ids[first:last] for first, last in pairwise(cuts)]


def in_parts(rule: RepeatRule, parts: Sequence[Sequence[int]]) -> int | None:
    """Where a response is stopped whose tokens come in these parts."""
    watch, before = RepeatWatch(rule), 0
    for part in parts:
        excess = watch.first_excess(part)
        if excess is not None:
            return before + excess
        before += len(part)
    return None


@given(RULES, FEW_TOKENS | LOOPS)
def test_a_response_is_stopped_where_counting_by_hand_stops_it(rule: RepeatRule, token_ids: list[int]) -> None:
    assert RepeatWatch(rule).first_excess(token_ids) == by_hand(rule, token_ids)


@given(RULES, FEW_TOKENS | LOOPS, st.lists(st.integers(1, 60), max_size=5))
def test_it_does_not_matter_in_what_parts_the_tokens_come(
    rule: RepeatRule, token_ids: list[int], ends: list[int]
) -> None:
    assert in_parts(rule, parts_of(token_ids, ends)) == by_hand(rule, token_ids)


@given(RULES, LOOPS, st.integers(0, 60))
def test_a_response_that_goes_on_in_another_iteration_is_stopped_at_the_same_token(
    rule: RepeatRule, token_ids: list[int], num_known: int
) -> None:
    stopped = by_hand(rule, token_ids)
    num_known = min(num_known, (stopped or len(token_ids) + 1) - 1)

    excess = RepeatWatch(rule, token_ids[:num_known]).first_excess(token_ids[num_known:])

    assert excess == (None if stopped is None else stopped - num_known)


@pytest.mark.parametrize(("period", "is_stopped"), [(1, True), (100, True), (390, True), (420, False), (3000, False)])
def test_a_loop_is_stopped_where_its_period_is_a_small_part_of_the_window(period: int, *, is_stopped: bool) -> None:
    response = [*range(10_000, 15_000), *(list(range(period)) * (12_000 // period))]

    stopped = RepeatWatch(RULE).first_excess(response)

    assert (stopped is not None) is is_stopped
    assert stopped is None or 5_000 < stopped <= 5_000 + period + RULE.window_tokens


def test_an_answer_that_is_written_out_twice_is_not_stopped() -> None:
    solution = list(range(1000))

    assert RepeatWatch(RULE).first_excess([*range(5000, 9000), *solution, *solution]) is None


def test_a_watch_forgets_what_has_left_its_window() -> None:
    watch = RepeatWatch(RULE)

    watch.first_excess(range(100_000))

    assert len(watch._counts) == len(watch._hashes) == RULE.num_ngrams


async def test_a_response_that_repeats_itself_gets_the_penalty_and_what_came_of_its_group_besides_counts(
    job: Job,
) -> None:
    repeats = RepeatsSpec(window_tokens=6, ngram_tokens=1, max_share=0.5, penalty=0.25)
    with_spec(job, "recipe", repeats=repeats, partial_rollout=PartialRolloutSpec(token_budget=16))
    job.stub.solutions = dict.fromkeys(job.stub.solutions, (5,) * 12)

    await job.run()

    cut = "SELECT reward, correct, num_tokens FROM trajectories JOIN segments ON id = trajectory_id"
    assert set(job.rows(f"{cut} WHERE finish_reason = 'repeat'")) == {(-0.25, 0, 6)}
    assert [(record.repeats, record.unfinished) for record in job.iterations()] == [(2, 0)] * 3
    assert len(job.stub.answered) == len(set(job.stub.answered)) == 6


async def test_the_others_of_a_group_go_on_at_once_where_one_repeats_itself(job: Job) -> None:
    repeats = RepeatsSpec(window_tokens=6, ngram_tokens=1, max_share=0.5, penalty=0.25)
    with_spec(job, "recipe", repeats=repeats, partial_rollout=PartialRolloutSpec(token_budget=16))
    job.stub.solutions = dict.fromkeys(job.stub.solutions, (5,) * 12)
    job.stub.held_samples = {1}

    await job.run()

    assert [(record.repeats, record.unfinished) for record in job.iterations()] == [(4, 0)] * 3
    assert len(job.stub.answered) == len(set(job.stub.answered)) == 12


def test_a_sample_that_was_cut_with_another_one_keeps_its_tokens() -> None:
    loop = Completion((5,) * 6, (-1.0,) * 6, FinishReason.REPEAT)
    rest = Completion((4, 6), (-1.0, -1.0), FinishReason.ABORT)
    limits = Limits(budget_tokens=8, max_length_tokens=64)

    pieces = [Piece(trajectory("1-p-0"), loop), Piece(trajectory("1-p-1"), rest)]
    outcomes = [unfinished(extend(piece.trajectory, piece.completion, 0, limits)) for piece in pieces]
    (goes_on,) = aborted(outcomes, pieces)
    (ask,) = plan_asks([goes_on], 0, limits, seed=1, iteration=1)

    assert (outcomes[0].trajectory.state, outcomes[0].trajectory.finish_reason) == ("Finished", "repeat")
    assert (ask.trajectories[0].id, ask.token_ids, ask.max_tokens) == ("1-p-1", (7, 8, 4, 6), 6)


async def test_a_loop_may_go_on_where_the_spec_stops_none(job: Job) -> None:
    repeats = RepeatsSpec(window_tokens=0)
    with_spec(job, "recipe", repeats=repeats, partial_rollout=PartialRolloutSpec(token_budget=16))
    job.stub.solutions = dict.fromkeys(job.stub.solutions, (5,) * 12)

    await job.run()

    assert [record.repeats for record in job.iterations()] == [0, 0, 0]
    assert len(PROBLEMS) == job.rows("SELECT COUNT(*) FROM segments WHERE num_tokens = 12")[0][0]
