"""Iterations in which all rewards are equal: counted, told, and known to the next master."""

import logging

import pytest

from tandem_api.job.status import MANY_SILENT_ITERATIONS
from tandem_master.iteration import silent_iterations
from tests.tandem_master.conftest import PROBLEMS, Job, with_spec

SAID = "all samples of every problem were worth the same"


@pytest.mark.parametrize(
    ("before", "signal", "expected"),
    [(3, [False, False], 4), (3, [False, True], 0), (3, [], 3), (0, [True], 0)],
)
def test_an_iteration_is_silent_where_no_complete_group_had_a_gradient(
    before: int, signal: list[bool], expected: int
) -> None:
    assert silent_iterations(before, signal) == expected


async def test_many_iterations_of_equal_rewards_are_told_and_counted(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    with_spec(job, "recipe", iterations=MANY_SILENT_ITERATIONS + 1, problems_per_iteration=4)
    job.stub.hopeless = {prompt for prompt, _ in PROBLEMS}

    with caplog.at_level(logging.WARNING):
        await job.run()

    assert (await job.progress()).silent_iterations == MANY_SILENT_ITERATIONS + 1
    assert caplog.text.count(SAID) == 1
    assert {record.groups_without_signal - record.groups for record in job.iterations()} == {0}


async def test_rewards_that_differ_end_the_silence(job: Job) -> None:
    await job.run()

    assert (await job.progress()).silent_iterations == 0


async def test_a_master_that_takes_over_knows_of_the_silence_before_it(job: Job) -> None:
    with_spec(job, "recipe", iterations=3, problems_per_iteration=4)
    job.stub.hopeless = {prompt for prompt, _ in PROBLEMS}
    await job.run()
    with_spec(job, "recipe", iterations=4, problems_per_iteration=4)

    await job.run()

    assert job.starts() == [0, 3]
    assert (await job.progress()).silent_iterations == 4
