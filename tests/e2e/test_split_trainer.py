"""A job whose trainer splits the model: as exact as one that holds it whole."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.e2e.jobs import iterations, leftovers, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

RUN_SECONDS = 300.0
LIMIT = 5e-5
"""Nats between a trainer and a server whose sums have another order."""


def write_split_job(folder: Path, toy: Path, num_ranks: int, **parallelism: int) -> Path:
    """Write example 01 with several devices in its pod, over which the trainer splits the model."""
    path = write_job(folder, "01-reverse-digits", toy, iterations=2)
    job = yaml.safe_load(path.read_text())
    job["spec"]["hybrid"]["gpusPerPod"] = num_ranks
    job["spec"]["trainer"]["parallelism"] = parallelism
    path.write_text(yaml.safe_dump(job))
    return path


def test_a_split_trainer_agrees_with_its_servers_about_every_token(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    process = start(write_split_job(tmp_path, toy, num_ranks=2, tensor=2), run)
    output, _ = process.communicate(timeout=RUN_SECONDS)

    assert process.returncode == 0, output
    assert [record.iteration for record in iterations(run)] == [1, 2]
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < LIMIT
    before, after = (load_file(folder / "policy" / "model.safetensors") for folder in (toy, run))
    assert {name: tensor.shape for name, tensor in after.items()} == {name: it.shape for name, it in before.items()}
    assert leftovers(run) == []
