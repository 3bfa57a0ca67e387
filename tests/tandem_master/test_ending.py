"""How an Infer phase ends: all complete, enough complete, or time up; and that nothing which was sampled is lost."""

import asyncio

import pytest

from tandem_api.history import PhaseEnd
from tandem_api.job.recipe import PartialRolloutSpec
from tandem_master.rollout.ending import Ending, StopRule
from tests.tandem_master.conftest import Job, with_spec

SOON = 10.0
SEGMENTS = "SELECT num_tokens FROM segments JOIN trajectories ON id = trajectory_id WHERE generation = 0"
REWARDS_OF_CUT = (
    "SELECT reward FROM trajectories WHERE state != 'Unfinished' AND id IN"
    " (SELECT trajectory_id FROM segments GROUP BY trajectory_id HAVING COUNT(*) > 1)"
)
"""Even samples are right where, and only where, their segments are the answer end to end."""


def with_rule(job: Job, **fields: float) -> None:
    """Give all answers room in one budget, and a phase a rule by which it ends."""
    with_spec(job, "recipe", partial_rollout=PartialRolloutSpec(token_budget=16).model_copy(update=fields))


async def run_holding_in_the_first_iteration(job: Job) -> int:
    """Have servers hold back what they are told to, until the first training has begun; return the exit code."""
    running = asyncio.create_task(job.run())
    async with asyncio.timeout(SOON):
        await job.stub.training_began.wait()
        job.stub.held_samples = set()
        return await running


@pytest.mark.parametrize(
    ("share", "complete", "is_enough"),
    [(None, 9, False), (0.7, 6, False), (0.7, 7, True), (0.01, 0, False), (0.01, 1, True), (1.0, 9, False)],
)
def test_enough_is_a_share_of_what_is_wanted(share: float | None, complete: int, *, is_enough: bool) -> None:
    assert StopRule(share).is_enough(complete, 10) is is_enough


def test_a_phase_in_which_all_are_complete_has_not_been_ended_by_its_rule() -> None:
    assert not StopRule(0.5).is_enough(10, 10)


async def test_what_strikes_first_is_the_reason() -> None:
    ending = Ending()

    ending.strike(PhaseEnd.SHARE)
    ending.strike(PhaseEnd.DEADLINE)

    assert ending.reason is PhaseEnd.SHARE


async def test_a_deadline_does_not_strike_before_something_was_sampled() -> None:
    ending = Ending()
    waiting = asyncio.create_task(ending.strike_after(0.0))
    await asyncio.sleep(0.01)
    assert not ending.has_struck

    ending.heard()
    await waiting

    assert ending.reason is PhaseEnd.DEADLINE


async def test_a_phase_ends_when_enough_are_complete_and_keeps_every_token_of_the_others(job: Job) -> None:
    with_rule(job, stop_when_complete_share=0.5)
    job.stub.held_samples = {0}

    exit_code = await run_holding_in_the_first_iteration(job)

    first = job.iterations()[0]
    assert exit_code == 0
    assert (first.rollout_end, first.finished, first.unfinished) == (PhaseEnd.SHARE, 2, 2)
    assert (first.cut, first.cut_tokens, first.trained) == (2, 4, 0)
    assert job.rows(SEGMENTS) == [(2,)] * 4
    assert set(job.rows(REWARDS_OF_CUT)) == {(1.0,)}


async def test_a_phase_ends_at_its_deadline_and_trains_nothing_where_nothing_is_complete(job: Job) -> None:
    with_rule(job, deadline_seconds=0.05)
    job.stub.held_samples = {0, 1}

    await run_holding_in_the_first_iteration(job)

    first = job.iterations()[0]
    assert (first.rollout_end, first.finished, first.trained) == (PhaseEnd.DEADLINE, 0, 0)
    assert (first.cut, first.cut_tokens) == (4, 8)


async def test_a_server_without_the_route_that_ends_requests_is_left_and_costs_only_what_it_had_not_sent(
    job: Job,
) -> None:
    with_rule(job, stop_when_complete_share=0.5)
    job.stub.held_samples = {0}
    job.stub.ends_requests = False

    await run_holding_in_the_first_iteration(job)

    first = job.iterations()[0]
    assert (first.rollout_end, first.cut, first.cut_tokens) == (PhaseEnd.SHARE, 2, 2)


async def test_a_sample_counts_when_it_has_ended_while_the_others_of_its_request_go_on(job: Job) -> None:
    job.stub.held_samples = {0}
    with_rule(job, deadline_seconds=SOON)
    done = "SELECT COUNT(*), SUM(reward IS NOT NULL) FROM trajectories WHERE state = 'Finished'"

    async with asyncio.timeout(SOON), job.members():
        running = asyncio.create_task(job.run_master())
        while not job.stub.ended or job.rows(done) != [(2, 2)]:  # noqa: ASYNC110 - nor does the buffer
            await asyncio.sleep(0.01)
        held = [ended.is_set() for ended in job.stub.ended.values()]
        job.stop.request()
        await running

    assert held == [False, False]


async def test_what_came_before_a_server_died_is_kept_and_goes_on_elsewhere(job: Job) -> None:
    with_rule(job)
    job.stub.dropped_samples = {0}

    exit_code = await job.run()

    sampled = "SELECT COUNT(*) FROM segments JOIN trajectories ON id = trajectory_id WHERE num_tokens = 1"
    assert exit_code == 0
    assert job.rows(f"{sampled} AND position = 0") == [(6,)]
    assert [(record.finished, record.unfinished) for record in job.iterations()] == [(4, 0)] * 3
    assert [record.reward for record in job.iterations()] == [0.5] * 3


async def test_problems_are_not_drawn_where_a_whole_iterations_worth_waits_for_its_first_token(job: Job) -> None:
    with_rule(job, deadline_seconds=0.05)
    with_spec(job, "recipe", iterations=4)
    job.stub.held_samples = {0, 1}
    job.stub.cache_tokens = 45  # room for one request

    await job.run()

    drawn = job.rows("SELECT problem_ids != '[]' FROM draws ORDER BY iteration")
    assert drawn[:2] == [(1,), (1,)]
    assert (0,) in drawn
