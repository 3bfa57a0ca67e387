"""Whole runs of the loop with held-out problems, members and servers only pretend."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem_master.buffer.store import open_buffer
from tandem_master.evaluation.estimate import Sample
from tandem_master.evaluation.store import EvaluationStore, open_store
from tests.tandem_master.cast import Script
from tests.tandem_master.conftest import Job, let_no_answer_fit_the_budget, with_spec
from tests.tandem_master.evaluations import HELD_OUT, asked_of_held_out, evaluations, hold_out, stored
from tests.tandem_master.results import result
from tests.tandem_master.texts import write_problems

NUM_SAMPLES = 2 * len(HELD_OUT)


@pytest.fixture
def store(job: Job) -> Iterator[EvaluationStore]:
    opened = open_store(job.settings.state / "evaluation.sqlite")
    yield opened
    opened.close()


async def test_the_initial_policy_every_second_one_and_the_final_one_are_measured(job: Job) -> None:
    hold_out(job, every=2)

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert [(record.name, record.generation) for record in evaluations(job)] == [("test", 0), ("test", 2), ("test", 3)]


async def test_half_the_samples_of_each_problem_are_right_and_whole(job: Job) -> None:
    hold_out(job, every=10)

    await job.run()

    first = evaluations(job)[0]
    assert first.pass_at == {1: 0.5, 2: 1.0}
    assert (first.problems, first.samples, first.unscored, first.mean_reward) == (2, NUM_SAMPLES, 0, 0.5)
    assert stored(job, "SELECT MAX(num_tokens) FROM samples") == [(7,)]
    assert first.cut_share == 0.0


async def test_nothing_of_an_evaluation_is_in_the_replay_buffer_or_tallied(job: Job) -> None:
    hold_out(job, every=1)

    await job.run()

    assert job.rows("SELECT COUNT(*) FROM trajectories WHERE problem_id LIKE 'test/%'") == [(0,)]
    assert not [name for name in open_buffer(job.settings.state / "buffer.sqlite").tallies() if "test" in name]
    assert {len(record.pass_at) for record in evaluations(job)} == {2}


async def test_a_job_trains_the_same_with_and_without_evaluation(job: Job, twin: Job) -> None:
    hold_out(job, every=1)

    await job.run()
    await twin.run()

    query = "SELECT id, trained_iteration, reward FROM trajectories ORDER BY id"
    assert job.rows(query) == twin.rows(query)
    assert sorted(map(str, job.trained_samples())) == sorted(map(str, twin.trained_samples()))


async def test_progress_tells_the_newest_result_of_each_set(job: Job) -> None:
    hold_out(job, every=2)

    await job.run()

    [told] = (await job.progress()).evaluations
    assert (told.name, told.generation, told.pass1, told.mean_reward) == ("test", 3, 0.5, 0.5)


async def wait_for_a_problem(job: Job) -> None:
    """Look at the file until it holds both samples of one; only the file itself can tell."""
    if len(stored(job, "SELECT 1 FROM samples")) < 2:
        await asyncio.sleep(0.01)
        await wait_for_a_problem(job)


async def test_an_evaluation_that_was_interrupted_asks_only_for_what_is_missing(job: Job) -> None:
    hold_out(job, every=10)
    job.stub.held_prompts = job.stub.prompts({"654321=": ""})
    running = asyncio.create_task(job.run())
    await job.stub.held.wait()
    async with asyncio.timeout(10):
        await wait_for_a_problem(job)
    job.stop.request()
    await running
    asked_before, known = asked_of_held_out(job), stored(job, "SELECT problem_id, number FROM samples")
    job.stub.held_prompts = set()

    await job.run()

    asked_after = asked_of_held_out(job) - asked_before
    assert sorted(known) == [("test/21=", 0), ("test/21=", 1)]
    assert asked_after == 1 + len(HELD_OUT)  # the other problem; then both problems at the end
    assert [(record.generation, record.samples) for record in evaluations(job)] == [(0, NUM_SAMPLES), (3, NUM_SAMPLES)]


async def test_a_resumed_job_measures_no_generation_twice(job: Job) -> None:
    hold_out(job, every=1)
    await job.run()
    asked = asked_of_held_out(job)

    exit_code = await job.run()

    assert (exit_code, asked_of_held_out(job)) == (0, asked)
    assert [record.generation for record in evaluations(job)] == [0, 1, 2, 3]


async def test_a_result_that_was_stored_and_not_told_is_told_once(job: Job) -> None:
    hold_out(job, every=2)
    await job.run()
    path = job.settings.state / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"kind":"evaluation"' not in line]
    path.write_text("\n".join(kept) + "\n")

    await job.run()
    await job.run()

    assert [record.generation for record in evaluations(job)] == [0, 2, 3]


async def test_a_job_that_goes_back_to_a_checkpoint_measures_anew_what_came_after_it(job: Job) -> None:
    hold_out(job, every=1)
    job.script = Script(losses=frozenset({"train/4"}))

    await job.run()

    assert job.ends() == [("Completed", "")]
    assert [record.generation for record in evaluations(job)] == [0, 1, 1, 2, 3]
    assert stored(job, "SELECT generation FROM results ORDER BY 1") == [(0,), (1,), (2,), (3,)]


async def test_a_server_that_dies_in_an_evaluation_costs_another_try(job: Job) -> None:
    hold_out(job, every=10)
    job.stub.num_failing = 12

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert [(record.generation, record.samples) for record in evaluations(job)] == [(0, NUM_SAMPLES), (3, NUM_SAMPLES)]


async def test_an_evaluation_that_is_late_has_no_result_and_the_job_goes_on(job: Job) -> None:
    hold_out(job, every=10, deadline_seconds=0.2)
    job.stub.held_prompts = job.stub.prompts(dict(HELD_OUT))

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert {record.error for record in evaluations(job)} == {
        "took more than 0.2 s; raise spec.data.evaluation[test].deadlineSeconds or ask less"
    }
    assert (await job.progress()).evaluations == ()


async def test_a_final_evaluation_that_no_server_answers_leaves_the_job_complete(job: Job) -> None:
    hold_out(job, every=10)
    job.script = Script(failures={f"rollout/{epoch}": "no memory" for epoch in range(7, 13)})

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert [record.generation for record in evaluations(job)] == [0]
    assert "policy" in job.stub.saved


async def test_a_stop_in_the_final_evaluation_is_clean_and_it_is_made_up_for(job: Job) -> None:
    hold_out(job, every=3)
    job.stub.hold_after_saving = "policy"
    running = asyncio.create_task(job.run())
    await job.stub.held.wait()
    job.stop.request()
    await running
    job.stub.hold_after_saving = ""

    await job.run()

    assert job.ends() == [("Stopped", ""), ("Completed", "")]
    assert [record.generation for record in evaluations(job)] == [0, 3]


async def test_a_set_that_has_changed_is_asked_anew(job: Job, store: EvaluationStore) -> None:
    hold_out(job)
    store.record("test", "another version", 0, [Sample("test/21=", 0, 3, "stop", 1.0, correct=True)])

    await job.run()

    assert evaluations(job)[0].samples == NUM_SAMPLES


def held_out_file(job: Job) -> Path:
    return Path(job.settings.job.spec.data.evaluation[0].path)


async def test_held_out_prompts_that_are_trained_on_are_counted(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    hold_out(job)
    with_spec(job, "recipe", iterations=1)
    write_problems(held_out_file(job), [*HELD_OUT, ("12=", "21")])

    await job.run()

    assert "spec.data.evaluation[test]: 1 of 3 prompts are in spec.data.train too" in caplog.text


async def test_a_missing_file_of_held_out_problems_ends_the_job_with_one_line(job: Job) -> None:
    hold_out(job)
    path = held_out_file(job)
    path.unlink()

    exit_code = await job.run()

    [(result, message)] = job.ends()
    assert (exit_code, result) == (1, "Failed")
    assert message == f"spec.data.evaluation[test].path: {path} cannot be read (No such file or directory)"


async def test_long_answers_are_asked_for_until_they_end(job: Job) -> None:
    let_no_answer_fit_the_budget(job)
    hold_out(job, every=10)
    let_no_answer_fit_the_budget(job)

    await job.run()

    assert evaluations(job)[0].samples == NUM_SAMPLES


def test_of_one_set_and_generation_the_first_result_stays(job: Job, store: EvaluationStore) -> None:
    assert store.finish("digest", result(4, 0.5))
    assert not store.finish("digest", result(4, 0.9))

    assert [record.pass_1 for record in store.results()] == [0.5]
