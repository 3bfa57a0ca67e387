"""A rollout-only pod serves what another pod exported, and its end hurts nobody."""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
import yaml

from tests.e2e.jobs import folders_of, iterations, leftovers, start, wait_until, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

START_SECONDS = 240.0
END_SECONDS = 400.0
STOP_SECONDS = 15.0
POD = "reverse-digits-rollout-0"
FETCHED = re.compile(r"generation (\d+): fetched (\d+) bytes in \d+ ranges from reverse-digits-hybrid-0 in")
ANSWERS = re.compile(r"(http://[\d.]+:\d+) (\d+)")


def elastic_job(folder: Path, toy: Path, num_iterations: int) -> Path:
    """Write example 01 with a rollout-only pod of one server beside its hybrid pod."""
    path = write_job(folder, "01-reverse-digits", toy, iterations=num_iterations)
    job = yaml.safe_load(path.read_text())
    job["spec"]["rollout"]["elastic"] = {"replicas": 1, "gpusPerPod": 1}
    path.write_text(yaml.safe_dump(job))
    return path


def log_of(run: Path, pod: str, container: str) -> str:
    path = run / "logs" / pod / f"{container}.log"
    return path.read_text() if path.exists() else ""


def fetched(run: Path) -> list[int]:
    """Return the generations that the rollout-only pod has fetched so far."""
    return [int(generation) for generation, _ in FETCHED.findall(log_of(run, POD, "rollout"))]


def is_serving(run: Path) -> bool:
    """Tell whether the rollout-only pod is in the middle of an Infer phase."""
    states = re.findall(r"switching to|Serving|stopped", log_of(run, POD, "rollout"))
    return bool(states) and states[-1] == "Serving"


def serves_again(run: Path) -> bool:
    """Tell whether the rollout-only pod is serving and has fetched more than the generation that it joined with."""
    return len(fetched(run)) > 1 and is_serving(run)


def num_shared_answers(run: Path) -> int:
    """Return how many requests the less busy server has answered in all iterations in which there were two."""
    log = log_of(run, "reverse-digits-master", "master")
    answers = [line.partition("answered: ")[2] for line in log.splitlines() if "requests answered" in line]
    counts = [[int(count) for _, count in ANSWERS.findall(text)] for text in answers]
    return sum(min(pair) for pair in counts if len(pair) == 2)


def engine(run: Path) -> psutil.Process:
    """Return the engine of the rollout-only pod."""
    marker = str(run.resolve())
    [found] = [process for process in psutil.process_iter(["cmdline", "environ"]) if is_engine(process, marker)]
    return found


def is_engine(process: psutil.Process, marker: str) -> bool:
    variables, words = process.info["environ"] or {}, process.info["cmdline"] or []
    return variables.get("POD_NAME") == POD and any(word.endswith("tandem-engine") for word in words)


def test_a_rollout_only_pod_serves_until_it_is_killed_and_the_job_completes(toy: Path, tmp_path: Path) -> None:
    job = elastic_job(tmp_path, toy, num_iterations=14)
    run = tmp_path / "run"

    process = start(job, run)
    wait_until(lambda: num_shared_answers(run) > 0 and serves_again(run), process, START_SECONDS)
    os.kill(engine(run).pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=END_SECONDS)

    assert process.returncode == 0, output
    assert f"{POD}/rollout: ended" in output
    assert [record.iteration for record in iterations(run)] == list(range(1, 15))
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < 1e-5
    assert len(fetched(run)) >= 2
    assert leftovers(run) == []
    assert folders_of(run) == []


def test_a_rollout_only_pod_that_was_told_to_go_joins_the_running_job_again(toy: Path, tmp_path: Path) -> None:
    job = elastic_job(tmp_path, toy, num_iterations=1000)
    run = tmp_path / "run"

    process = start(job, run)
    wait_until(lambda: bool(fetched(run)), process, START_SECONDS)
    os.kill(engine(run).pid, signal.SIGTERM)
    before = len(fetched(run))
    wait_until(lambda: len(fetched(run)) > before + 1, process, START_SECONDS)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=STOP_SECONDS)

    assert process.returncode == 130, output
    assert "INFO stopped" in log_of(run, POD, "rollout")
    assert fetched(run)[-1] > fetched(run)[before - 1] + 1
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < 1e-5
    assert leftovers(run) == []
