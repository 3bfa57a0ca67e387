"""Trackers get the numbers of a run, and cannot end it."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tandem_api.history import RunEnded
from tandem_api.job.operations import Tracker
from tandem_master.mlflow_files import MLflowFiles
from tandem_master.trackers import Trackers, open_trackers, params_of, point_of
from tests.tandem_master.conftest import Job, job_config
from tests.tandem_master.results import result
from tests.tandem_master.test_history import ITERATION, SWITCH

AT = 1_700_000_000.25


class Kept:
    """Keeps what it gets; fails at the steps that it is told."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.is_closed = False
        self._fails_at = fails_at

    def scalars(self, step: int, at: float, values: Mapping[str, float]) -> None:
        if step == self._fails_at:
            raise OSError(28, "No space left on device")
        self.points.append((step, values))

    def close(self) -> None:
        self.is_closed = True


def run_folder(state: Path) -> Path:
    """The one run of the one experiment of a file store."""
    [path] = (state / "mlruns").glob("*/*/meta.yaml")
    return path.parent


def test_an_evaluation_is_told_under_the_name_of_its_set_at_the_step_of_its_generation() -> None:
    point = point_of(result(4, 0.5))

    assert point is not None
    step, _, values = point
    assert (step, values["evaluation/test/pass_at_1"], values["evaluation/test/cut_share"]) == (4, 0.5, 0.25)


@pytest.mark.parametrize(
    "record", [RunEnded(at=1.0, result="Completed"), result(4, 0.0, error="late")], ids=["end", "late"]
)
def test_what_has_no_number_is_not_told(record: RunEnded) -> None:
    assert point_of(record) is None


def test_a_tracker_that_fails_is_told_of_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken, well = Kept(fails_at=4), Kept()
    trackers = Trackers({"broken": broken, "well": well})

    with caplog.at_level(logging.WARNING):
        for record in (ITERATION, ITERATION, SWITCH):
            trackers.record(record)
        trackers.close()

    assert [step for step, _ in well.points] == [4, 4, 2]
    assert (broken.points, broken.is_closed, well.is_closed) == ([], False, True)
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith("tracker broken fails and gets nothing more: OSError")


def test_a_tracker_that_cannot_begin_is_told_of_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlruns").write_text("no folder")

    trackers = open_trackers([Tracker.TENSOR_BOARD, Tracker.MLFLOW], tmp_path, "toy", {})
    trackers.record(ITERATION)
    trackers.close()

    assert "tracker MLflow cannot begin and gets nothing" in caplog.text
    assert list((tmp_path / "tensorboard").iterdir())


def test_mlflow_finds_experiment_run_parameters_and_metrics_where_its_file_store_has_them(tmp_path: Path) -> None:
    files = MLflowFiles(tmp_path / "mlruns", "toy", {"recipe.seed": "3"})
    files.scalars(2, AT, {"reward": 0.5, "evaluation/test/pass_at_1": 0.25})
    files.scalars(3, AT + 1, {"reward": 0.75})
    files.close()

    run = run_folder(tmp_path)
    experiment = yaml.safe_load((run.parent / "meta.yaml").read_text())
    meta = yaml.safe_load((run / "meta.yaml").read_text())
    assert (experiment["name"], experiment["experiment_id"]) == ("toy", run.parent.name)
    assert (meta["run_id"], meta["status"], meta["experiment_id"]) == (run.name, 3, run.parent.name)
    assert (run / "metrics" / "reward").read_text() == "1700000000250 0.5 2\n1700000001250 0.75 3\n"
    assert (run / "metrics" / "evaluation" / "test" / "pass_at_1").read_text() == "1700000000250 0.25 2\n"
    assert (run / "params" / "recipe.seed").read_text() == "3"


def test_no_name_of_a_set_leads_out_of_the_folder_of_metrics(tmp_path: Path) -> None:
    files = MLflowFiles(tmp_path / "mlruns", "toy", {})
    files.scalars(1, AT, {"evaluation/../../../x/pass_at_1": 0.5})
    files.close()

    [path] = list(tmp_path.rglob("pass_at_1"))
    assert path.is_relative_to(run_folder(tmp_path) / "metrics" / "evaluation")


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(tmp_path: Path) -> None:
    MLflowFiles(tmp_path / "mlruns", "toy", {}).close()
    files = MLflowFiles(tmp_path / "mlruns", "toy", {})

    meta = yaml.safe_load((run_folder(tmp_path) / "meta.yaml").read_text())

    assert (meta["status"], meta["end_time"]) == (1, None)
    files.close()


def test_parameters_are_the_fields_of_policy_data_and_recipe(tmp_path: Path) -> None:
    params = params_of(job_config(tmp_path).spec)

    assert (params["recipe.samplesPerProblem"], params["recipe.objective.name"]) == ("2", "MirrorDescent")
    assert not [name for name in params if name.partition(".")[0] not in {"policy", "data", "recipe"}]


async def test_a_job_whose_trackers_cannot_write_completes(job: Job) -> None:
    spec = job.settings.job.spec.model_copy(update={"trackers": (Tracker.MLFLOW,)})
    object.__setattr__(job.settings, "job", job.settings.job.model_copy(update={"spec": spec}))
    job.settings.state.mkdir(parents=True)
    (job.settings.state / "mlruns").write_text("no folder")

    exit_code = await job.run()

    assert (exit_code, job.ends()) == (0, [("Completed", "")])
    assert not (job.settings.state / "tensorboard").exists()
