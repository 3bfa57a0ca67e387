"""What goes wrong in a run is run again: nothing that was committed is lost, nothing is committed twice."""

import asyncio
from collections import Counter
from itertools import count, islice

import pytest

from tandem_api.history import SwitchRecord
from tandem_api.registry import MemberState, MemberStatus
from tandem_master import loop
from tandem_master.checkpoints import MOST_FAILURES, latest_generation
from tandem_master.loop import MOST_RETURNS, MOST_TRIES
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script
from tests.tandem_master.conftest import PODS, Job, ids, let_no_answer_fit_the_budget, with_spec

SOON = 20.0
EPOCHS = range(1, 100)
MISMATCH = "self-test: server 0 of toy-hybrid-0 differs from the trainer of toy-hybrid-0 in model.norm.weight"
DISAGREEMENT = "the log-probabilities of server and trainer differ by 0.3 nats"


def epochs(job: Job) -> list[int]:
    """Epochs of the switches that were completed."""
    return [record.epoch for record in job.records() if isinstance(record, SwitchRecord)]


def committed(job: Job) -> list[int]:
    """Iterations in the order in which they were committed."""
    return [record.iteration for record in job.iterations()]


async def sampling_in_iteration_2(job: Job) -> "asyncio.Task[int]":
    """Run a master, without its members, until generation 1 is served and requests hang."""
    job.stub.num_before_holding = 3
    running = asyncio.create_task(job.run_master(), name="master")
    async with asyncio.timeout(SOON):
        await job.stub.held.wait()
    return running


async def lose_generation_1(job: Job) -> None:
    """Have all trainers say that they start from the initial policy, and that their segments are empty."""
    keys = job.settings.keys
    await job.registry.delete(keys.weights)
    empty = MemberStatus(incarnation="anew", epoch=0, state=MemberState.IDLE, generation=0).model_dump_json()
    await job.registry.put(keys.status(PODS[0], "train"), empty)
    await job.registry.put(keys.status(PODS[1], "train"), empty)


async def test_an_iteration_whose_training_breaks_is_run_again_with_newer_epochs_and_committed_once(job: Job) -> None:
    job.stub.broken_epochs = frozenset({4})

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert committed(job) == [1, 2, 3]
    assert epochs(job) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {(request.generation, request.epoch) for request in job.stub.train_requests} == {(0, 2), (1, 6), (2, 8)}


async def test_a_second_try_samples_nothing_anew_and_trains_every_sample_once(job: Job, twin: Job) -> None:
    job.stub.broken_epochs = frozenset({2})

    await job.run()
    await twin.run()

    assert len(set(job.stub.answered)) == len(job.stub.answered)
    assert Counter(job.trained_samples()) == Counter(twin.trained_samples())
    assert max(Counter(job.trained_samples()).values()) == 1


@pytest.mark.parametrize(
    "script",
    [
        Script(failures={"rollout/3": "server: exit 137"}),
        Script(failures={"train/2": "rank 1 ended"}),
        Script(silences=frozenset({"train/3"})),
        Script(restarts=frozenset({"train/3", "rollout/4"})),
    ],
    ids=["a server fails", "a trainer fails", "a trainer misses the deadline", "members are started anew"],
)
async def test_whatever_breaks_a_switch_once_the_job_completes(job: Job, script: Script) -> None:
    with_spec(job, "switch", train_to_infer_deadline_seconds=2.0)
    job.script = script

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert committed(job) == [1, 2, 3]
    assert max(Counter(job.trained_samples()).values()) == 1


async def test_people_are_told_what_is_being_recovered_from(job: Job) -> None:
    job.script = Script(failures={"train/2": "rank 1 ended"})
    running = asyncio.create_task(job.run())

    async with asyncio.timeout(SOON):
        await told(job, "recovering: switch 2 (InferToTrain, generation 0): toy-hybrid-")

    assert await running == 0


async def told(job: Job, beginning: str) -> None:
    """Return once the progress key's activity begins so."""
    async for changes in job.registry.watch(job.settings.keys.progress):
        if any(f'"activity":"{beginning}' in (change.value or "") for change in changes):
            return


async def test_an_iteration_that_fails_again_and_again_ends_the_job_with_the_words_of_the_last_try(job: Job) -> None:
    job.script = Script(failures={f"rollout/{epoch}": f"server: exit {epoch}" for epoch in islice(count(3), 100)})

    exit_code = await job.run()

    last = 2 + MOST_TRIES
    progress = await job.progress()
    assert (exit_code, committed(job), (await job.word()).epoch) == (1, [1], last)
    assert [result for result, _ in job.ends()] == ["Failed"]
    assert f"switch {last} (TrainToInfer, generation 1): toy-hybrid-0/rollout failed: server: exit {last}" in (
        progress.error or ""
    )
    assert (progress.activity, progress.error) == ("failed", job.ends()[0][1])


async def test_a_stop_between_two_tries_is_heeded_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 2 * SOON)
    job.script = Script(failures={f"rollout/{epoch}": "server: exit 137" for epoch in EPOCHS[2:]})
    running = asyncio.create_task(job.run())
    async with asyncio.timeout(SOON):
        await told(job, "recovering")

    job.stop.request()
    async with asyncio.timeout(SOON):
        exit_code = await running

    assert (exit_code, [result for result, _ in job.ends()]) == (0, ["Stopped"])


async def test_a_batch_that_the_trainer_refuses_is_not_tried_again(job: Job) -> None:
    job.stub.refusal = DISAGREEMENT

    exit_code = await job.run()

    assert (exit_code, job.ends()[0][0], epochs(job)) == (1, "Failed", [1, 2])
    assert job.ends()[0][1].endswith(f"/train: {DISAGREEMENT}")
    assert committed(job) == []


async def test_a_hand_over_whose_self_test_fails_is_not_tried_again_and_nothing_is_trained(job: Job) -> None:
    job.script = Script(mismatches={"rollout/1": MISMATCH})

    exit_code = await job.run()

    assert (exit_code, job.ends()[0][0], epochs(job), job.stub.train_requests) == (1, "Failed", [], [])
    assert job.ends()[0][1].endswith(f"/rollout failed: {MISMATCH}")
    assert (await job.progress()).error == job.ends()[0][1]


async def test_where_a_generation_is_lost_the_job_goes_back_to_its_checkpoint_with_another_lineage(job: Job) -> None:
    with_spec(job, "recipe", iterations=5)
    job.script = Script(losses=frozenset({"train/7"}))
    running = asyncio.create_task(job.run())
    lost = await job.until_told(7)

    exit_code = await running

    last = await job.word()
    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert committed(job) == [1, 2, 3, 3, 4, 5]
    assert (lost.generation, last.generation) == (3, 4)
    assert last.lineage != lost.lineage
    assert len(set(job.stub.answered)) == len(job.stub.answered)


async def test_what_is_run_again_after_a_loss_is_committed_once_in_the_buffer(job: Job) -> None:
    with_spec(job, "recipe", iterations=5)
    job.script = Script(losses=frozenset({"train/7"}))

    await job.run()

    assert ids(job.rows("SELECT iteration FROM iterations ORDER BY iteration")) == [1, 2, 3, 4, 5]
    assert job.rows("SELECT COUNT(*) FROM trajectories WHERE trained_iteration > iteration + 1") == [(0,)]


async def test_an_iteration_with_nothing_to_train_that_is_lost_is_run_again_on_what_it_had_sampled(job: Job) -> None:
    let_no_answer_fit_the_budget(job)
    job.script = Script(losses=frozenset({"train/3"}))

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert committed(job) == [1, 1, 2, 3]
    assert [record.trained > 0 for record in job.iterations()] == [False, False, True, True]
    assert len(set(job.stub.answered)) == len(job.stub.answered)


async def test_a_job_that_loses_its_weights_again_and_again_fails(job: Job) -> None:
    job.script = Script(losses=frozenset(f"train/{epoch}" for epoch in EPOCHS))

    exit_code = await job.run()

    assert (exit_code, (await job.word()).epoch) == (1, MOST_RETURNS)
    assert job.ends() == [
        ("Failed", f"the job went back to a checkpoint {MOST_RETURNS} times; look at the trainers' logs")
    ]


async def test_a_master_that_lost_its_lease_stands_again_and_goes_on_where_it_was(job: Job) -> None:
    async with job.members():
        running = await sampling_in_iteration_2(job)
        before = await job.word()

        job.stub.num_before_holding = None
        job.registry.expire_owner(job.settings.keys.master)
        exit_code = await running

    after = await job.word()
    assert (exit_code, job.starts(), job.ends()) == (0, [0, 1], [("Completed", "")])
    assert committed(job) == [1, 2, 3]
    assert (before.epoch, after.epoch, after.lineage) == (3, 7, before.lineage)
    assert max(Counter(job.trained_samples()).values()) == 1


async def test_a_master_that_lost_its_lease_goes_back_where_the_trainers_hold_something_else(job: Job) -> None:
    async with job.members():
        running = await sampling_in_iteration_2(job)
        before = await job.word()

        job.stub.num_before_holding = None
        await lose_generation_1(job)
        job.registry.expire_owner(job.settings.keys.master)
        exit_code = await running

    assert (exit_code, job.starts(), job.ends()) == (0, [0, 0], [("Completed", "")])
    assert committed(job) == [1, 1, 2, 3]
    assert (await job.word()).lineage != before.lineage


async def test_a_master_that_was_killed_and_started_anew_goes_on_without_going_back(job: Job) -> None:
    async with job.members():
        running = await sampling_in_iteration_2(job)
        before = await job.word()
        running.cancel()
        await asyncio.wait([running])
        job.stub.num_before_holding = None

        exit_code = await job.run_master()

    after = await job.word()
    assert (exit_code, job.starts(), job.ends()) == (0, [0, 1], [("Completed", "")])
    assert committed(job) == [1, 2, 3]
    assert (before.epoch, after.epoch, after.lineage) == (3, 7, before.lineage)


async def test_a_master_started_anew_after_an_iteration_with_nothing_to_train_goes_on_after_it(job: Job) -> None:
    let_no_answer_fit_the_budget(job)
    async with job.members():
        running = await sampling_in_iteration_2(job)
        running.cancel()
        await asyncio.wait([running])
        job.stub.num_before_holding = None

        exit_code = await job.run_master()

    assert (exit_code, job.starts(), job.ends()) == (0, [0, 1], [("Completed", "")])
    assert committed(job) == [1, 2, 3]
    assert [record.trained > 0 for record in job.iterations()] == [False, True, True]


async def test_iterations_after_the_newest_checkpoint_are_run_again_where_everything_has_ended(job: Job) -> None:
    with_spec(job, "recipe", iterations=5)
    job.script = Script(silences=frozenset({"train/7"}))
    running = asyncio.create_task(job.run())
    await job.until_told(7)
    async with asyncio.timeout(SOON):
        await job.stub.first_saved.wait()
    running.cancel()
    await asyncio.wait([running])
    job.registry, job.script = FakeRegistry(), Script()

    exit_code = await job.run()

    assert (exit_code, job.starts(), job.ends()) == (0, [0, 2], [("Completed", "")])
    assert committed(job) == [1, 2, 3, 3, 4, 5]
    assert len(set(job.stub.answered)) == len(job.stub.answered)


async def test_a_checkpoint_at_which_a_trainer_ends_is_written_again(job: Job) -> None:
    job.stub.broken_saves = {"generation-000002"}

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert job.stub.saved == ["generation-000002", "generation-000003", "policy"]


async def test_sampling_and_training_go_on_while_a_checkpoint_is_written(job: Job) -> None:
    job.stub.writing_may_end.clear()
    running = asyncio.create_task(job.run())

    await job.until_told(6)
    written = job.stub.saved.copy()
    job.stub.writing_may_end.set()

    assert (await running, written, job.stub.saved) == (0, [], ["generation-000002", "generation-000003", "policy"])
    assert [record.generation for record in job.checkpoints()] == [2, 3]
    assert job.checkpoints()[0].seconds > job.checkpoints()[0].waited_seconds


async def test_a_run_that_is_killed_while_a_checkpoint_is_written_begins_at_the_one_before(job: Job) -> None:
    with_spec(job, "recipe", iterations=5)
    with_spec(job, "checkpoints", every_iterations=1)
    running = asyncio.create_task(job.run())
    await job.until_told(5)
    job.stub.writing_may_end.clear()
    job.stub.writing_began.clear()
    async with asyncio.timeout(SOON):
        await job.stub.writing_began.wait()
    newest = latest_generation(job.settings.state / "checkpoints")
    running.cancel()
    await asyncio.wait([running])
    job.registry = FakeRegistry()
    job.stub.writing_may_end.set()

    exit_code = await job.run()

    assert (exit_code, job.starts()[1], job.ends()) == (0, newest, [("Completed", "")])
    assert ids(job.rows("SELECT iteration FROM iterations ORDER BY iteration")) == [1, 2, 3, 4, 5]


async def test_checkpoints_that_find_the_disk_full_are_told_and_done_without(job: Job) -> None:
    with_spec(job, "checkpoints", every_iterations=1)
    job.stub.num_full = MOST_FAILURES - 1

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert job.stub.saved == ["generation-000003", "policy"]
    errors = [record.error for record in job.checkpoints()]
    assert ["No space left on device" in error for error in errors] == [True, True, False]


async def test_a_job_whose_checkpoints_fail_again_and_again_ends(job: Job) -> None:
    with_spec(job, "recipe", iterations=9)
    with_spec(job, "checkpoints", every_iterations=1)
    job.stub.num_full = MOST_FAILURES

    exit_code = await job.run()

    assert exit_code == 1
    assert job.ends()[0][1].startswith(f"{MOST_FAILURES} checkpoints in a row could not be written: toy-hybrid-0/train")
    assert len(committed(job)) in (MOST_FAILURES, MOST_FAILURES + 1)


async def test_where_a_generation_is_lost_the_checkpoint_that_is_being_written_is_waited_for(job: Job) -> None:
    with_spec(job, "recipe", iterations=5)
    job.stub.writing_may_end.clear()
    job.script = Script(losses=frozenset({"train/7"}))
    running = asyncio.create_task(job.run())
    await job.until_told(7)

    job.stub.writing_may_end.set()

    assert await running == 0
    assert committed(job) == [1, 2, 3, 3, 4, 5]


async def test_a_stop_after_a_training_that_broke_saves_no_weights_that_nobody_can_name(job: Job) -> None:
    job.stub.broken_epochs = frozenset({4})
    running = asyncio.create_task(job.run())
    async with asyncio.timeout(SOON):
        await told(job, "recovering")

    job.stop.request()
    exit_code = await running

    assert (exit_code, [result for result, _ in job.ends()]) == (0, ["Stopped"])
    assert job.stub.saved == []


async def test_a_stop_is_heeded_while_trainers_have_not_yet_said_what_they_hold(job: Job) -> None:
    async with job.members():
        running = await sampling_in_iteration_2(job)
        await job.registry.delete(job.settings.keys.weights)
        await job.registry.delete(job.settings.keys.statuses)
        job.registry.expire_owner(job.settings.keys.master)
        await asyncio.sleep(1.0)

        job.stop.request()
        async with asyncio.timeout(SOON):
            exit_code = await running

    assert exit_code == 0
