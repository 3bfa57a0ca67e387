"""Example 03, some iterations: long responses come in pieces of several generations, and each token is sampled once."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from benchmarks.rollout_bench.trained import Sampling, read_sampling

from tandem_api.history import IterationRecord
from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer.query import Filter, Order, open_reader
from tests.e2e.jobs import EXAMPLES, iterations, leftovers, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

EXAMPLE = "03-partial-rollouts"
WARM_UP_STEPS = 100
"""Fewer than the example's own: the policy counts, and guesses the letter."""
BUDGET = 16
RECIPE = {
    "iterations": 5,
    "problemsPerIteration": 8,
    "samplesPerProblem": 2,
    "partialRollout": {"tokenBudget": BUDGET, "excludeOldSegments": True},
}
RUN_SECONDS = 120.0


@dataclass(frozen=True)
class Pieces:
    """What the job has left."""

    code: int
    output: str
    records: Sequence[IterationRecord]
    trajectories: Sequence[Trajectory]
    sampling: Sampling
    leftovers: Sequence[str]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    folder = tmp_path_factory.mktemp("pieces")
    script = EXAMPLES / EXAMPLE / "make_counting_policy.py"
    command = [sys.executable, str(script), "--out", str(folder / "made"), "--steps", str(WARM_UP_STEPS)]
    subprocess.run(command, check=True, capture_output=True)
    process = start(write_job(folder, EXAMPLE, folder / "made", **RECIPE), folder / "run")
    output, _ = process.communicate(timeout=RUN_SECONDS)
    run = folder / "run"
    with open_reader(run / "buffer.sqlite") as reader:
        listed = list(reader.listed(Filter(), Order.NEWEST))
        found = [trajectory for item in listed if (trajectory := reader.trajectory(item.id)) is not None]
    return Pieces(process.returncode, output, iterations(run), found, read_sampling(run), leftovers(run))


def test_the_job_completes(pieces: Pieces) -> None:
    assert pieces.code == 0, pieces.output
    assert len(pieces.records) == RECIPE["iterations"]
    assert pieces.leftovers == []


def test_responses_grow_beyond_one_budget_in_segments_of_different_generations(pieces: Pieces) -> None:
    long = [item for item in pieces.trajectories if item.num_response_tokens > BUDGET]
    generations = [[segment.generation for segment in item.segments] for item in long]

    assert max(map(len, generations)) >= 3
    assert all(one == sorted(set(one)) for one in generations)


def test_no_trajectory_grows_by_more_than_its_budget_in_an_iteration(pieces: Pieces) -> None:
    lengths = [len(segment.token_ids) for item in pieces.trajectories for segment in item.segments]

    assert max(lengths) == BUDGET


def test_every_token_of_the_records_is_in_one_segment_so_no_prefix_is_sampled_again(pieces: Pieces) -> None:
    by_iteration = Counter[int]()
    for item in pieces.trajectories:
        for segment in item.segments:
            by_iteration[segment.generation + 1] += len(segment.token_ids)

    assert by_iteration == {record.iteration: record.sampled_tokens for record in pieces.records}


def test_what_has_several_segments_is_trained_once(pieces: Pieces) -> None:
    trained = [item for item in pieces.trajectories if item.state is TrajectoryState.TRAINED]
    in_loss = Counter[int]()
    for item in trained:
        in_loss[pieces.sampling.trained[item.id]] += any(
            segment.generation + 1 == pieces.sampling.trained[item.id] for segment in item.segments
        )

    assert any(len(item.segments) > 1 for item in trained)
    assert {record.iteration: record.trained for record in pieces.records if record.trained} == +in_loss


def test_what_is_unfinished_waits_in_the_buffer(pieces: Pieces) -> None:
    unfinished = [item for item in pieces.trajectories if item.state is TrajectoryState.UNFINISHED]

    assert len(unfinished) == pieces.records[-1].unfinished > 0
