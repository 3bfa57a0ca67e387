"""The checkpoint that did best on held-out problems is kept, whatever else goes."""

from pathlib import Path

import pytest

from tandem_api.job.operations import BestSpec, EvaluationMetric
from tandem_master.checkpoints import link_atomically, linked_generation
from tandem_master.evaluation.best import ranked
from tandem_master.retention import Retention
from tests.tandem_master.cast import Script
from tests.tandem_master.conftest import Job, with_spec
from tests.tandem_master.evaluations import HELD_OUT, evaluations, hold_out
from tests.tandem_master.results import result

HELD_OUT_PROMPTS = {prompt for prompt, _ in HELD_OUT}


def keep_best(job: Job, *, every: int = 100) -> None:
    """Evaluate each generation and keep the best; checkpoints are due every so many iterations otherwise."""
    hold_out(job, every=1)
    with_spec(job, "checkpoints", every_iterations=every, keep_last=1, keep_best=BestSpec())


def spoil(job: Job, generation: int) -> None:
    """Have no sample of held-out problems be right from this generation on."""
    job.stub.hopeless_in = lambda served: HELD_OUT_PROMPTS if served >= generation else set()


def folders(job: Job) -> list[str]:
    return sorted(path.name for path in (job.settings.state / "checkpoints").glob("generation-*"))


def best(job: Job) -> int | None:
    return linked_generation(job.settings.state / "checkpoints")


def test_the_largest_wins_and_of_equal_ones_the_earliest() -> None:
    results = [result(0, 1.0), result(5, 0.5), result(10, 0.75), result(15, 0.75)]

    assert ranked(results, EvaluationMetric.PASS_1) == (10, 15, 5)


def test_the_metric_is_chosen() -> None:
    results = [result(5, 0.5, reward=2.0), result(10, 0.75, reward=1.0)]

    assert ranked(results, EvaluationMetric.MEAN_REWARD) == (5, 10)
    assert ranked(results, EvaluationMetric.PASS_K) == (5, 10)


def test_an_evaluation_without_a_result_is_never_the_best() -> None:
    assert ranked([result(5, 0.0, error="late"), result(10, 0.0)], EvaluationMetric.PASS_1) == (10,)


def test_retention_forgets_all_but_the_newest_and_the_best() -> None:
    assert Retention(keep_last=1, best=10).forgotten([10, 20, 30]) == (20,)


@pytest.mark.parametrize("before", [None, "generation-000010"])
def test_a_link_is_made_or_swapped(tmp_path: Path, before: str | None) -> None:
    (tmp_path / "generation-000020").mkdir()
    if before is not None:
        (tmp_path / "best").symlink_to(before)

    link_atomically(tmp_path / "best", "generation-000020")

    assert linked_generation(tmp_path) == 20
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_the_best_generation_has_a_checkpoint_although_none_was_due(job: Job) -> None:
    keep_best(job)
    spoil(job, 2)

    exit_code = await job.run()

    assert (exit_code, best(job)) == (0, 1)
    assert folders(job) == ["generation-000001", "generation-000003"]
    assert (job.settings.state / "checkpoints" / "latest").read_text() == "generation-000003"
    assert (job.settings.state / "checkpoints" / "best").resolve().is_dir()


async def test_a_better_one_takes_the_place_of_the_best(job: Job) -> None:
    keep_best(job)
    job.stub.hopeless_in = lambda served: HELD_OUT_PROMPTS if served < 3 else set()

    await job.run()

    assert [record.pass_1 for record in evaluations(job)] == [0.0, 0.0, 0.0, 0.5]
    assert (best(job), folders(job)) == (3, ["generation-000003"])


async def test_the_best_survives_resumption(job: Job) -> None:
    keep_best(job)
    spoil(job, 2)
    await job.run()
    with_spec(job, "recipe", iterations=5)

    await job.run()

    assert (best(job), folders(job)) == (1, ["generation-000001", "generation-000005"])


async def test_a_link_that_a_killed_master_did_not_swap_is_mended_at_the_next_start(job: Job) -> None:
    keep_best(job)
    spoil(job, 2)
    await job.run()
    (job.settings.state / "checkpoints" / "best").unlink()

    await job.run()

    assert best(job) == 1


async def test_of_a_best_one_whose_checkpoint_could_not_be_written_the_next_is_kept(job: Job) -> None:
    keep_best(job)
    job.stub.num_full = 1

    exit_code = await job.run()

    assert (exit_code, best(job)) == (0, 2)


async def test_a_job_that_goes_back_forgets_the_best_of_what_is_void(job: Job) -> None:
    keep_best(job)
    spoil(job, 2)
    job.script = Script(losses=frozenset({"train/4"}))

    await job.run()

    assert (best(job), job.ends()) == (1, [("Completed", "")])
