"""Stopped, killed and resumed: nothing is lost, nothing is left behind."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tandem_cli.report.history import read_history
from tests.e2e.accounts import unaccounted
from tests.e2e.jobs import folders_of, iterations, leftovers, self_tests, start, wait_until, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

START_SECONDS = 240.0
STOP_SECONDS = 10.0
SAMPLES, BUDGET_TOKENS = 8, 8
"""Of the example."""
MASTER, HYBRID = "reverse-digits-master", "reverse-digits-hybrid-0"


def test_a_stopped_and_a_killed_run_go_on_where_they_were(toy: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, "01-reverse-digits", toy, iterations=6)
    run = tmp_path / "run"

    first = start(job, run)
    wait_until(lambda: len(iterations(run)) >= 2, first, START_SECONDS)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=STOP_SECONDS)
    done = read_history(run / "metrics.jsonl").iterations[-1].iteration

    assert first.returncode == 130
    assert done >= 2
    assert (run / "policy" / "model.safetensors").is_file()
    assert leftovers(run) == []
    assert folders_of(run) == []

    refused = start(job, run)
    assert "--resume" in refused.communicate(timeout=STOP_SECONDS)[0]
    assert refused.returncode == 2

    second = start(job, run, "--resume")
    wait_until(lambda: len(iterations(run)) > done, second, START_SECONDS)
    second.kill()
    second.communicate()
    wait_until_gone(run)

    third = start(job, run, "--resume")
    output, _ = third.communicate(timeout=START_SECONDS)
    history = read_history(run / "metrics.jsonl")

    assert third.returncode == 0, output
    assert [record.iteration for record in history.iterations] == [1, 2, 3, 4, 5, 6]
    assert unaccounted(run / "buffer.sqlite", history.iterations, samples=SAMPLES, budget=BUDGET_TOKENS) == []
    tested = [record.generation for record in self_tests(run)]
    assert tested == [0, *(life.started.iteration for life in history.runs[1:])]
    assert leftovers(run) == []


def test_a_second_interrupt_ends_everything_at_once(toy: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, "01-reverse-digits", toy)
    run = tmp_path / "run"
    process = start(job, run)
    wait_until(lambda: len(iterations(run)) >= 1, process, START_SECONDS)

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=STOP_SECONDS)

    assert process.returncode == 130
    assert leftovers(run) == []
    assert folders_of(run) == []


@pytest.mark.parametrize(
    ("pod", "words", "told"),
    [
        (MASTER, ["tandem-master"], f"{MASTER}/master: ended by SIGKILL; it is started again"),
        (HYBRID, ["tandem-engine", "train"], f"{HYBRID}/trainer: ended"),
        (HYBRID, ["tandem-engine", "rollout"], f"{HYBRID}/rollout: ended"),
    ],
    ids=["the master", "the trainer's engine", "the server's engine"],
)
def test_whatever_of_a_job_is_killed_is_started_again_and_the_job_completes(
    toy: Path, tmp_path: Path, pod: str, words: list[str], told: str
) -> None:
    job = write_job(tmp_path, "01-reverse-digits", toy, iterations=5)
    run = tmp_path / "run"

    process = start(job, run)
    wait_until(lambda: len(iterations(run)) >= 2, process, START_SECONDS)
    os.kill(container(process.pid, pod, words), signal.SIGKILL)
    output, _ = process.communicate(timeout=START_SECONDS)
    history = read_history(run / "metrics.jsonl")

    assert process.returncode == 0, output
    assert told in output
    assert [record.iteration for record in history.iterations] == [1, 2, 3, 4, 5]
    assert unaccounted(run / "buffer.sqlite", history.iterations, samples=SAMPLES, budget=BUDGET_TOKENS) == []
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < 1e-5
    assert leftovers(run) == []
    assert folders_of(run) == []


def container(command: int, pod: str, words: list[str]) -> int:
    """Return the main process of a container of a command: the one in that pod with these words on its command line."""
    for process in psutil.Process(command).children(recursive=True):
        with suppress(psutil.Error):
            told = process.cmdline()
            if process.environ().get("POD_NAME") == pod and all(any(x.endswith(word) for x in told) for word in words):
                return int(process.pid)
    raise AssertionError(f"{pod} runs no {words}")


def wait_until_gone(run: Path) -> None:
    """Wait for the janitor of a killed command; fail where something stays."""
    deadline = time.monotonic() + STOP_SECONDS
    while leftovers(run) or folders_of(run):
        assert time.monotonic() < deadline, (leftovers(run), folders_of(run))
        time.sleep(0.1)
