"""A job that keeps its optimizer: saved while it goes on, killed on the way, and gone on with in another layout."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from tandem_api.history import CheckpointRecord
from tests.e2e.jobs import iterations, leftovers, planting, records, start, wait_until, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

START_SECONDS = 240.0
ITERATIONS, STEPS = 4, 2
LIMIT = 5e-5
"""Nats between a trainer and a server whose sums have another order."""


def write_keeping_job(folder: Path, toy: Path, hold: Path, num_ranks: int) -> Path:
    """Write example 01 with an optimizer that is kept, and a checkpoint of each iteration that waits for `hold`."""
    path = write_job(folder, "01-reverse-digits", toy, iterations=ITERATIONS)
    job = yaml.safe_load(path.read_text())
    spec = job["spec"]
    spec["recipe"]["objective"] = {"stepsPerIteration": STEPS, "resetOptimizer": False}
    spec["checkpoints"] = {"everyIterations": 1}
    spec["hybrid"]["gpusPerPod"] = num_ranks
    spec["trainer"]["parallelism"] = {"tensor": num_ranks}
    variables = {"PYTHONPATH": planting("holding"), "TANDEM_TEST_HOLD": hold}
    trainer = {"name": "trainer", "env": [{"name": name, "value": str(value)} for name, value in variables.items()]}
    spec["podTemplate"] = {"spec": {"containers": [trainer]}}
    path.write_text(yaml.safe_dump(job))
    return path


def kill_everything(command: "subprocess.Popen[str]") -> None:
    """Kill a command and every process of its job at once, as a power cut does."""
    processes = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    command.communicate()


def newest(run: Path) -> int:
    """Return the generation that a resumed run begins at."""
    latest = run / "checkpoints" / "latest"
    return int(latest.read_text().rpartition("-")[2]) if latest.exists() else 0


def num_steps(run: Path, generation: int) -> int:
    """Return how many steps the optimizer of a checkpoint has taken."""
    folder = run / "checkpoints" / f"generation-{generation:06d}" / "optimizer"
    return int(torch.load(folder / "common.pt", weights_only=False)["optimizer"]["state"]["common_step"])


def test_a_job_killed_while_it_saves_goes_on_from_the_checkpoint_before_in_another_layout(
    toy: Path, tmp_path: Path
) -> None:
    run, hold = tmp_path / "run", tmp_path / "hold"
    first = start(write_keeping_job(tmp_path, toy, hold, num_ranks=1), run)
    wait_until(lambda: newest(run) >= 1, first, START_SECONDS)
    hold.touch()
    wait_until(lambda: len(iterations(run)) >= newest(run) + 2, first, START_SECONDS)
    kept = newest(run)
    half = run / "checkpoints" / f".generation-{kept + 1:06d}.partial"
    kill_everything(first)

    assert half.is_dir()
    assert (newest(run), num_steps(run, kept)) == (kept, kept * STEPS)
    wait_until_gone(run)
    hold.unlink()

    second = start(write_keeping_job(tmp_path, toy, hold, num_ranks=2), run, "--resume")
    output, _ = second.communicate(timeout=START_SECONDS)

    assert second.returncode == 0, output
    assert f"iteration {kept + 1}/{ITERATIONS}" in output
    assert (newest(run), num_steps(run, ITERATIONS)) == (ITERATIONS, ITERATIONS * STEPS)
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert [record.error for record in records(run) if isinstance(record, CheckpointRecord)] == [""] * ITERATIONS
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < LIMIT


def wait_until_gone(run: Path) -> None:
    """Wait for the janitor; fail where something stays."""
    deadline = time.monotonic() + 10
    while leftovers(run):
        assert time.monotonic() < deadline, leftovers(run)
        time.sleep(0.1)
