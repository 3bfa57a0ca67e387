"""Example 02: two pods, each with two data-parallel ranks and two servers, switch together."""

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tandem_api.history import SwitchRecord
from tests.e2e.jobs import iterations, leftovers, records, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

BUDGET_TOKENS = 6
"""The longest problem."""


def write_talkative_policy(folder: Path, toy: Path) -> Path:
    """Write the toy policy with an output layer that hardly prefers one token: its responses seldom end."""
    shutil.copytree(toy, folder)
    weights = folder / "policy" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"] *= 0.05
    save_file(tensors, weights, {"format": "pt"})
    return folder


def write_slow_job(folder: Path, toy: Path) -> Path:
    """Write example 02 so that a response takes two iterations: the first one has nothing to train."""
    partial = {"tokenBudget": BUDGET_TOKENS}
    path = write_job(folder, "02-two-pods", write_talkative_policy(folder / "talkative", toy), partialRollout=partial)
    job = yaml.safe_load(path.read_text())
    job["spec"]["recipe"]["iterations"] = 3
    job["spec"]["policy"]["maxLengthTokens"] = 2 * BUDGET_TOKENS + 4
    path.write_text(yaml.safe_dump(job))
    return path


def test_two_pods_train_and_serve_one_policy_also_where_an_iteration_has_nothing_to_train(
    toy: Path, tmp_path: Path
) -> None:
    job = write_slow_job(tmp_path, toy)
    run = tmp_path / "run"

    process = start(job, run)
    output, _ = process.communicate(timeout=500)
    switches = [record for record in records(run) if isinstance(record, SwitchRecord)]

    assert process.returncode == 0, output
    assert [(record.iteration, record.trained > 0) for record in iterations(run)] == [(1, False), (2, True), (3, True)]
    assert [record.generation for record in switches] == [0, 0, 1, 1, 2, 2]
    assert {(stage.pod, stage.role) for stage in switches[-1].stages} == {
        ("two-pods-hybrid-0", "train"),
        ("two-pods-hybrid-0", "rollout"),
        ("two-pods-hybrid-1", "train"),
        ("two-pods-hybrid-1", "rollout"),
        ("two-pods-master", "master"),
    }
    assert leftovers(run) == []
