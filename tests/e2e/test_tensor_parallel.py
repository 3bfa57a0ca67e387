"""A job whose server splits the policy over two devices: as exact as with one, and mended when a part is killed."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tandem_cli.report.history import read_history
from tests.e2e.jobs import folders_of, iterations, leftovers, start, wait_until, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

RUN_SECONDS = 300.0
LIMIT = 5e-5
"""Nats between a trainer's rank, which holds all of the policy, and a server whose sums have another order."""


def write_split_job(folder: Path, toy: Path, strategy: str, num_iterations: int) -> Path:
    """Write example 01 with two devices, two trainer ranks and one server on both devices."""
    path = write_job(folder, "01-reverse-digits", toy, iterations=num_iterations)
    job = yaml.safe_load(path.read_text())
    job["spec"]["hybrid"]["gpusPerPod"] = 2
    job["spec"]["rollout"]["parallelism"] = {"tensor": 2}
    job["spec"]["switch"] = {"strategy": strategy}
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.parametrize("strategy", ["Restart", "Resident"])
def test_a_split_server_agrees_with_the_trainer_about_every_token(toy: Path, tmp_path: Path, strategy: str) -> None:
    job = write_split_job(tmp_path, toy, strategy, 3)
    run = tmp_path / "run"

    process = start(job, run)
    output, _ = process.communicate(timeout=RUN_SECONDS)

    assert process.returncode == 0, output
    assert [record.iteration for record in iterations(run)] == [1, 2, 3]
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < LIMIT
    assert leftovers(run) == []


@pytest.mark.parametrize("strategy", ["Restart", "Resident"])
def test_a_worker_that_is_killed_takes_its_server_along_and_another_one_comes(
    toy: Path, tmp_path: Path, strategy: str
) -> None:
    job = write_split_job(tmp_path, toy, strategy, 4)
    run = tmp_path / "run"

    process = start(job, run)
    wait_until(lambda: len(iterations(run)) >= 1, process, RUN_SECONDS)
    worker = second_worker(process.pid)
    server = worker.parents()[1]
    worker.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=RUN_SECONDS)

    assert process.returncode == 0, output
    assert not server.is_running()
    assert [record.iteration for record in read_history(run / "metrics.jsonl").iterations] == [1, 2, 3, 4]
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < LIMIT
    assert leftovers(run) == []
    assert folders_of(run) == []


def second_worker(command: int) -> psutil.Process:
    """Return the second of the server's two workers, once there is one."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        for process in psutil.Process(command).children(recursive=True):
            with suppress(psutil.Error):
                if "Worker_TP1" in "".join(process.cmdline()):
                    return process
        time.sleep(0.02)
    raise AssertionError("no server has a second worker")
