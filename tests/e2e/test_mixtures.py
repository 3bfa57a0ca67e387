"""Jobs whose policies have experts, one of them latent attention too: as exact as those of dense ones, and trained."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.e2e.jobs import iterations, leftovers, start, write_job
from tests.families.policies import write_policy

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

RUN_SECONDS = 300.0
LIMIT = 5e-5
"""Nats between a trainer and a server whose sums have another order."""
Split = Mapping[str, int]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
RECIPE = {
    "iterations": 2,
    "problemsPerIteration": 16,
    "partialRollout": {"tokenBudget": 16},
    "lengthReward": {"weight": 1.0, "warmupIterations": 0},
}
"""A random policy is never right, but its longer answers are the worse ones: there is something to train. It seldom
ends one by itself, so each gets all of its tokens in one iteration."""


def write_mixture(folder: Path, toy: Path, family: str) -> Path:
    """Write a random policy of a family that reads and writes the toy's problems; return the folder above it."""
    folder.mkdir()
    policy = write_policy(folder / "policy", family)
    for name in TOKENIZER:
        shutil.copy(toy / "policy" / name, policy / name)
    shutil.copytree(toy / "data", folder / "data")
    return folder


def write_mixture_job(folder: Path, mixture: Path, strategy: str, trainer: Split, server: Split) -> Path:
    """Write example 01 with another policy, and two devices over which trainer and server split it."""
    path = write_job(folder, "01-reverse-digits", mixture, **RECIPE)
    job = yaml.safe_load(path.read_text())
    job["spec"]["policy"]["maxLengthTokens"] = 16
    job["spec"]["hybrid"]["gpusPerPod"] = 2
    job["spec"]["trainer"]["parallelism"] = dict(trainer)
    job["spec"]["rollout"]["parallelism"] = dict(server)
    job["spec"]["switch"] = {"strategy": strategy}
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.parametrize(
    ("family", "strategy", "trainer", "server"),
    [
        pytest.param("qwen3_moe", "Restart", {"expert": 2}, {"pipeline": 2}, id="Qwen3-MoE, a server of two stages"),
        pytest.param(
            "deepseek_v3", "Resident", {"pipeline": 2, "lastStageLayers": 1}, {}, id="DeepSeek-V3, a resident server"
        ),
        pytest.param(
            "deepseek_v3",
            "Restart",
            {"tensor": 2, "expertTensor": 2},
            {"tensor": 2},
            id="DeepSeek-V3, matrices cut on both sides",
            marks=pytest.mark.campaign,
        ),
        pytest.param(
            "mixtral",
            "Resident",
            {"tensor": 2, "expert": 2},
            {"pipeline": 2},
            id="Mixtral, a resident server of two stages",
            marks=pytest.mark.campaign,
        ),
    ],
)
def test_a_mixture_is_served_as_exactly_as_it_is_trained(
    toy: Path, tmp_path: Path, family: str, strategy: str, trainer: Split, server: Split
) -> None:
    mixture = write_mixture(tmp_path / "mixture", toy, family)
    run = tmp_path / "run"

    process = start(write_mixture_job(tmp_path, mixture, strategy, trainer, server), run)
    output, _ = process.communicate(timeout=RUN_SECONDS)

    assert process.returncode == 0, output
    assert [(record.iteration, record.trained > 0) for record in iterations(run)] == [(1, True), (2, True)]
    assert max(record.max_abs_logprob_difference for record in iterations(run)) < LIMIT
    before, after = (load_file(folder / "policy" / "model.safetensors") for folder in (mixture, run))
    assert {name: tensor.shape for name, tensor in after.items()} == {name: it.shape for name, it in before.items()}
    assert {name for name in before if before[name].equal(after[name])} <= {
        name for name in before if name.endswith("e_score_correction_bias")
    }
    assert leftovers(run) == []
