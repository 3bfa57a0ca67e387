"""The run's diary and its TensorBoard files."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tandem_api.history import RECORD, IterationRecord, RunEnded, RunStarted, SwitchRecord
from tandem_api.job.status import Direction
from tandem_master.history import History
from tandem_master.tensorboard import EventFiles
from tandem_master.trackers import point_of

STARTED = RunStarted(at=1.0, job="toy", iteration=0, iterations=3)
ENDED = RunEnded(at=2.0, result="Completed")
ITERATION = IterationRecord(
    iteration=4, generation=4, at=9.0, seconds=3.0, reward=0.75, response_tokens=5.0, finished=8, unfinished=1,
    trained=8, sampled_tokens=40, tokens_per_second=20.0, max_abs_logprob_difference=3e-6, kl=0.01, loss=0.5,
    gradient_norm=1.5, learning_rate=1e-6,
)  # fmt: skip
SWITCH = SwitchRecord(
    epoch=2, iteration=1, generation=0, direction=Direction.INFER_TO_TRAIN, started_at=1.0, seconds=0.25, stages=()
)


def records(path: Path) -> list[object]:
    return [RECORD.validate_json(line) for line in path.read_text().splitlines()]


def test_a_record_is_on_disk_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.jsonl")

    history.append(STARTED)

    assert records(tmp_path / "metrics.jsonl") == [STARTED]
    history.close()


def test_a_resumed_run_goes_on_in_the_same_file_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(STARTED.model_dump_json() + "\n" + '{"kind": "iterat')

    history = History(path)
    history.append(ENDED)
    history.close()

    assert records(path) == [STARTED, ENDED]


def test_tensorboard_reads_the_scalars_of_an_iteration_and_a_switch(tmp_path: Path) -> None:
    events = EventFiles(tmp_path)
    iteration, switch = point_of(ITERATION), point_of(SWITCH)
    assert iteration is not None
    assert switch is not None
    events.scalars(*iteration)
    events.scalars(*switch)
    events.close()

    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()

    scalars = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    assert scalars["reward"] == [(4, 0.75)]
    assert scalars["switch/InferToTrain_seconds"] == [(2, 0.25)]
    assert scalars["learning_rate"] == [(4, pytest.approx(1e-6))]
    assert set(scalars) >= {"response_tokens", "tokens_per_second", "loss", "kl", "gradient_norm"}


def test_an_iteration_of_an_older_version_is_read_without_a_learning_rate() -> None:
    line = ITERATION.model_dump_json(exclude={"learning_rate"})

    record = RECORD.validate_json(line)

    assert isinstance(record, IterationRecord)
    assert record.learning_rate is None


def test_trackers_get_no_learning_rate_of_an_iteration_without_a_step() -> None:
    point = point_of(ITERATION.model_copy(update={"learning_rate": None}))

    assert point is not None
    assert "learning_rate" not in point[2]
    assert "loss" in point[2]
