"""Whole jobs on a GPU: example 01 with each strategy and number format."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import toy  # noqa: F401 - a fixture
from tests.e2e.jobs import iterations, start, write_job
from tests.gpu.machine import FLOAT32_LIMIT

ITERATIONS = 3
JOB_SECONDS = 600.0
LIMITS = {"Float32": FLOAT32_LIMIT, "BFloat16": 0.5}
"""Nats between server and trainer."""


def job_on_device(folder: Path, toy: Path, strategy: str, dtype: str) -> Path:  # noqa: F811
    """Write example 01's job with few iterations and another strategy."""
    path = write_job(folder, "01-reverse-digits", toy, iterations=ITERATIONS)
    job: dict[str, Any] = yaml.safe_load(path.read_text())
    spec = job["spec"]
    spec["policy"]["dtype"] = dtype
    spec["hybrid"]["gpu"] = {"sharing": "VisibleAll"}
    spec["switch"] = {"strategy": strategy, "trainToInferDeadlineSeconds": 300, "inferToTrainDeadlineSeconds": 120}
    spec["rollout"]["engineArgs"]["gpu_memory_utilization"] = 0.5
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.parametrize("dtype", ["Float32", "BFloat16"])
@pytest.mark.parametrize("strategy", ["Restart", "Resident", "Sleep"])
def test_a_job_completes_and_server_and_trainer_agree(
    toy: Path,  # noqa: F811
    tmp_path: Path,
    strategy: str,
    dtype: str,
) -> None:
    job = job_on_device(tmp_path, toy, strategy, dtype)

    command = start(job, tmp_path / "run")
    output, _ = command.communicate(timeout=JOB_SECONDS)

    assert command.returncode == 0, output
    differences = [record.max_abs_logprob_difference for record in iterations(tmp_path / "run")]
    assert len(differences) == ITERATIONS
    assert max(differences) <= LIMITS[dtype]
