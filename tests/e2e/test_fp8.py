"""A job whose policy is FP8 with block scales: trained in plain numbers, served and saved in FP8."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tandem_checkpoint.architectures.block_scales import SCALES
from tests.e2e.jobs import iterations, leftovers, self_tests, start
from tests.e2e.test_mixtures import RUN_SECONDS, write_mixture, write_mixture_job
from tests.families.policies import FP8_SIZES, write_block_scales, write_policy

pytestmark = [pytest.mark.campaign, pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

LIMIT = 5.0
"""Nats between a trainer and a server that has rounded the same weights; a router may choose other experts for it."""
EQUAL = 5e-5
"""Nats where the folder was FP8: the trainer begins with the very numbers that servers get."""


def test_a_policy_in_fp8_is_trained_served_and_saved(toy: Path, tmp_path: Path) -> None:
    mixture = write_mixture(tmp_path / "mixture", toy, "qwen3")
    plain = write_policy(tmp_path / "plain", "deepseek_v3", **FP8_SIZES["deepseek_v3"])
    quantised = write_block_scales(plain, tmp_path / "quantised")
    for name in ("config.json", "model.safetensors"):
        (mixture / "policy" / name).write_bytes((quantised / name).read_bytes())
    run = tmp_path / "run"
    path = write_mixture_job(tmp_path, mixture, "Restart", {"expert": 2}, {"tensor": 2})

    process = start(path, run)
    output, _ = process.communicate(timeout=RUN_SECONDS)

    assert process.returncode == 0, output
    first, second = (record.max_abs_logprob_difference for record in iterations(run))
    assert first < EQUAL < second < LIMIT
    assert len(self_tests(run)) == 1
    before, after = load_file(mixture / "policy" / "model.safetensors"), load_file(run / "policy" / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in after.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in before.items()
    }
    matrices = [name for name, tensor in after.items() if tensor.dtype is torch.float8_e4m3fn]
    assert any(not torch.equal(before[name + SCALES], after[name + SCALES]) for name in matrices)
    assert yaml.safe_load((run / "policy" / "config.json").read_text())["quantization_config"]["quant_method"] == "fp8"
    assert leftovers(run) == []
