"""Whole runs of the loop with members and servers that only pretend."""

import asyncio
from collections import Counter

import pytest

from tandem_api.history import PhaseRecord, SelfTestRecord, SwitchRecord
from tandem_api.job.status import Direction, Phase
from tandem_api.registry import MasterRecord
from tandem_master import loop, training
from tests.tandem_master.cast import Script
from tests.tandem_master.conftest import Job, ids, let_no_answer_fit_the_budget, with_spec

LONG_PROMPT_TOKENS = 7
TOKEN_BUDGET = 4


async def run_until_three_answers_are_durable(job: Job) -> asyncio.Task[int]:
    """Run into iteration 2 until one of its three requests is answered and written down; the others hang."""
    job.stub.num_before_holding = 3
    running = asyncio.create_task(job.run())
    await job.stub.held.wait()
    async with asyncio.timeout(10):
        await wait_for_a_group_of_generation_1(job)
    return running


async def wait_for_a_group_of_generation_1(job: Job) -> None:
    """Look at the file until it holds one; only the file itself can tell."""
    if groups_of_generation_1(job) != [(1,)]:
        await asyncio.sleep(0.01)
        await wait_for_a_group_of_generation_1(job)


def groups_of_generation_1(job: Job) -> list[tuple[object, ...]]:
    """How many groups have tokens of generation 1."""
    return job.rows(
        "SELECT COUNT(DISTINCT group_id) FROM trajectories JOIN segments ON id = trajectory_id WHERE generation = 1"
    )


async def test_a_run_completes_all_iterations_and_leaves_policy_and_checkpoint(job: Job) -> None:
    exit_code = await job.run()

    checkpoints = job.settings.state / "checkpoints"
    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert [record.iteration for record in job.iterations()] == [1, 2, 3]
    assert (checkpoints / "latest").read_text() == "generation-000003"
    assert [path.name for path in checkpoints.glob("generation-*")] == ["generation-000003"]
    assert job.stub.saved == ["generation-000002", "generation-000003", "policy"]


async def test_unfinished_trajectories_are_carried_over_and_trained_on_their_current_segment(job: Job) -> None:
    await job.run()

    continued = [item for item in job.trained_samples() if item.first_loss_token == LONG_PROMPT_TOKENS + TOKEN_BUDGET]
    assert job.iterations()[0].unfinished > 0
    assert continued
    assert {len(item.sampled_logprobs) for item in continued} == {3}
    assert {item.advantage for item in continued} == {0.5}


async def test_every_complete_group_is_trained_once(job: Job) -> None:
    await job.run()

    complete = job.rows(
        "SELECT group_id FROM trajectories GROUP BY group_id HAVING MIN(state != 'Unfinished') ORDER BY 1"
    )
    trained = job.rows("SELECT DISTINCT group_id FROM trajectories WHERE state = 'Trained' ORDER BY 1")
    assert ids(complete) == ids(trained)
    assert sum(record.trained for record in job.iterations()) == len(job.trained_samples())


async def test_an_iteration_says_the_learning_rate_of_its_last_step(job: Job) -> None:
    objective = job.settings.job.spec.recipe.objective.model_copy(update={"steps_per_iteration": 2})
    with_spec(job, "recipe", objective=objective)

    await job.run()

    steps = {request.generation + 1: len(request.steps) for request in job.stub.train_requests}
    rates = {record.iteration: record.learning_rate for record in job.iterations()}
    assert rates == {iteration: 1e-6 / number for iteration, number in steps.items()}
    assert 2 in steps.values()


async def test_each_iteration_trains_from_the_generation_that_sampled_it(job: Job) -> None:
    await job.run()

    assert {(request.generation, request.epoch) for request in job.stub.train_requests} <= {(0, 2), (1, 4), (2, 6)}
    assert ids(job.rows("SELECT DISTINCT generation FROM segments ORDER BY generation")) == [0, 1, 2]
    assert await job.registry.get(job.settings.keys.published) == "2"


async def test_every_switch_and_phase_is_recorded(job: Job) -> None:
    await job.run()

    switches = [record for record in job.records() if isinstance(record, SwitchRecord)]
    phases = [record for record in job.records() if isinstance(record, PhaseRecord)]
    assert [record.epoch for record in switches] == [1, 2, 3, 4, 5, 6]
    assert [record.direction for record in switches[:2]] == [Direction.TRAIN_TO_INFER, Direction.INFER_TO_TRAIN]
    assert [record.first for record in switches] == [True, False, False, False, False, False]
    assert [record.epoch for record in phases] == [1, 2, 3, 4, 5, 6]


async def test_what_the_self_test_of_a_hand_over_has_compared_is_recorded_and_shown(job: Job) -> None:
    job.script = Script(self_tests={"rollout/1": 26})

    await job.run()

    [record] = [record for record in job.records() if isinstance(record, SelfTestRecord)]
    assert (record.iteration, record.generation, record.tensors) == (1, 0, 26)
    assert record.text == "self-test: 26 tensors equal, 9 log-probabilities within 1e-06"
    assert (await job.progress()).self_test == record.text


async def test_the_last_progress_outlives_the_master(job: Job) -> None:
    await job.run()

    progress = await job.progress()
    assert (progress.activity, progress.iteration, progress.error) == ("completed", 3, None)
    assert await job.registry.get(job.settings.keys.master) is None


async def test_a_stop_while_sampling_keeps_what_has_finished_and_saves_the_policy(job: Job) -> None:
    running = await run_until_three_answers_are_durable(job)

    job.stop.request()
    exit_code = await running

    assert (exit_code, job.ends()) == (0, [("Stopped", "")])
    assert job.stub.saved == ["generation-000001", "policy"]
    assert groups_of_generation_1(job) == [(1,)]
    async with asyncio.timeout(5):
        await job.stub.disconnected.wait()


async def test_a_stop_while_sampling_has_trainers_take_the_devices_first_where_they_keep_an_optimizer(job: Job) -> None:
    keeping = job.settings.job.spec.recipe.objective.model_copy(update={"reset_optimizer": False})
    with_spec(job, "recipe", objective=keeping)
    job.stub.broken_saves = {"generation-000001"}
    running = await run_until_three_answers_are_durable(job)

    job.stop.request()
    exit_code = await running

    word = await job.word()
    assert (exit_code, job.ends(), job.stub.saved) == (0, [("Stopped", "")], ["generation-000001", "policy"])
    assert (word.phase, word.generation) == (Phase.TRAIN, 1)


async def test_a_resumed_run_uses_what_was_sampled_before_the_stop(job: Job) -> None:
    running = await run_until_three_answers_are_durable(job)
    job.stop.request()
    await running
    drawn = job.rows("SELECT problem_ids FROM draws WHERE iteration = 2")
    job.stub.num_before_holding = None

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Stopped", ""), ("Completed", "")])
    assert job.starts() == [0, 1]
    assert [record.iteration for record in job.iterations()] == [1, 2, 3]
    assert job.rows("SELECT problem_ids FROM draws WHERE iteration = 2") == drawn
    assert len(set(job.stub.answered)) == len(job.stub.answered)


async def test_a_resumed_run_trains_on_the_same_samples_as_one_that_was_never_stopped(job: Job, twin: Job) -> None:
    running = await run_until_three_answers_are_durable(job)
    job.stop.request()
    await running
    job.stub.num_before_holding = None
    await job.run()

    await twin.run()

    assert Counter(job.trained_samples()) == Counter(twin.trained_samples())
    assert max(Counter(job.trained_samples()).values()) == 1


async def test_a_stop_while_training_lets_the_iteration_commit(job: Job) -> None:
    job.stub.training_may_end.clear()
    running = asyncio.create_task(job.run())
    await job.stub.training_began.wait()

    job.stop.request()
    job.stub.training_may_end.set()
    exit_code = await running

    newest = job.iterations()[-1].iteration
    assert (exit_code, job.ends()) == (0, [("Stopped", "")])
    assert (job.settings.state / "checkpoints" / "latest").read_text() == f"generation-{newest:06d}"


async def test_a_training_that_a_stop_cuts_is_run_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAIN_GRACE_SECONDS", 0.0)
    job.stub.training_may_end.clear()
    running = asyncio.create_task(job.run())
    await job.stub.training_began.wait()
    job.stop.request()
    await running
    job.stub.training_may_end.set()
    job.stub.train_requests.clear()

    exit_code = await job.run()

    assert (exit_code, [result for result, _ in job.ends()]) == (0, ["Stopped", "Completed"])
    assert job.rows("SELECT DISTINCT state FROM trajectories WHERE iteration = 1") == [("Trained",)]


async def test_an_iteration_without_a_complete_group_trains_nothing_and_goes_on(job: Job) -> None:
    with_spec(job, "recipe", iterations=2, problems_per_iteration=6)
    let_no_answer_fit_the_budget(job)

    exit_code = await job.run()

    first = [request for request in job.stub.train_requests if request.generation == 0]
    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert [record.trained for record in job.iterations()] == [0, 4]
    assert [(request.steps, request.samples_per_step) for request in first] == [((), ()), ((), ())]


async def test_a_master_that_lost_its_key_changes_nothing_and_fails(job: Job) -> None:
    job.stub.num_before_holding = 1
    running = asyncio.create_task(job.run())
    await job.stub.held.wait()

    await job.registry.put(job.settings.keys.master, MasterRecord(incarnation="other", pod="p").model_dump_json())
    job.stop.request()
    exit_code = await running

    assert exit_code == 1
    assert job.ends() == []
    assert job.stub.saved == []


async def test_a_second_master_waits_and_names_the_first(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "ELECTION_SECONDS", 0.0)
    first = MasterRecord(incarnation="cafe", pod="toy-master")
    await job.registry.put(job.settings.keys.master, first.model_dump_json())

    exit_code = await job.run()

    assert exit_code == 1
    assert "it already has a master, incarnation cafe in pod toy-master" in caplog.text
    assert not job.settings.state.exists()


async def test_a_mistake_in_the_data_is_told_in_one_line(job: Job) -> None:
    with_spec(job, "policy", max_length_tokens=4)

    exit_code = await job.run()

    assert exit_code == 1
    assert "train.jsonl:3: the prompt has 7 tokens" in job.ends()[0][1]
