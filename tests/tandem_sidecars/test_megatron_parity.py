"""Trainer and transformers agree about a policy of every family: the check that catches a wrong conversion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem_api.engine import Sample
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.process.commands import Build, FolderSource, RankAnswer, Refused, Trained
from tests.families.mistakes import (
    ignored_scales,
    other_softmax_order,
    padded_embeddings,
    padding_in_the_softmax,
    rope_of_megatron,
    unscaled_rope,
)
from tests.families.policies import FAMILIES, LLAMA3_ROPE, YARN_ROPE, write_block_scales, write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import ALONE, Forge
from tests.tandem_sidecars.policies import changed_policy, samples_of
from tests.tandem_sidecars.training import LIMIT, train, weights_in

pytestmark = pytest.mark.megatron

ATTENTION = "model.layers.1.self_attn"
FEED_FORWARD = "model.layers.1.mlp"


def compared(
    forge: Forge,
    folder: Path,
    policy: Path,
    samples: tuple[Sample, ...],
    temperature: float = 1.0,
    plant: Callable[[], None] | None = None,
) -> RankAnswer:
    """Have a trainer that holds `policy` train on samples whose log-probabilities transformers computed."""
    rank = forge.start(job_config(policy, temperature=temperature), folder, plant=plant)
    rank.send(train(samples))
    return rank.receive()


def caught(
    forge: Forge, folder: Path, family: str, plant: Callable[[], None] | None = None, **sizes: Any
) -> RankAnswer:
    """Return how a trainer with a mistake answers to samples of a policy of a family."""
    policy = write_policy(folder / "policy", family, **sizes)
    return compared(forge, folder, policy, samples_of(policy), plant=plant)


def is_too_far(answer: RankAnswer) -> bool:
    """Tell whether a trainer refused samples because of the difference in log-probabilities."""
    return isinstance(answer, Refused) and "log-probabilities of server and trainer differ" in answer.reason


def with_three_blocks(policy: Path, folder: Path, kind: str) -> Path:
    """Return the policy that a converter makes that takes Megatron's query, key and value for three blocks.

    Megatron's rows go by key/value group: the group's query heads, its key head, its value head.
    """
    config = read_policy_config(policy)
    names = [f"{ATTENTION}.{part}_proj.{kind}" for part in "qkv"]
    tensors = weights_in(policy)
    groups, dim = config.num_key_value_heads, config.head_dim
    queries = config.num_heads // groups
    fused = torch.cat([tensors[name] for name in names])
    by_group = fused.view(groups, queries + 2, dim, *fused.shape[1:])
    parts = (part.flatten(0, 2) for part in torch.split(by_group, [queries, 1, 1], dim=1))
    return changed_policy(policy, folder, dict(zip(names, parts, strict=True)))


def with_halves_swapped(policy: Path, folder: Path) -> Path:
    """Return the policy that a converter makes that takes Megatron's first rows for up."""
    tensors = weights_in(policy)
    gate, up = f"{FEED_FORWARD}.gate_proj.weight", f"{FEED_FORWARD}.up_proj.weight"
    return changed_policy(policy, folder, {gate: tensors[up], up: tensors[gate]})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(forge: Forge, tmp_path: Path, family: str) -> None:
    policy = write_policy(tmp_path / "policy", family)

    answer = compared(forge, tmp_path, policy, samples_of(policy))

    assert isinstance(answer, Trained), answer
    assert 0 < answer.max_abs_logprob_difference <= LIMIT


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("llama", {"tied": True}),
        ("llama", {"rope_parameters": LLAMA3_ROPE}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
        ("qwen3_moe", {"norm_topk_prob": False}),
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("deepseek_v3", {"q_lora_rank": None}),
        ("deepseek_v3", {"rope_parameters": YARN_ROPE}),
        ("deepseek_v3", {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 3}),
    ],
    ids=[
        "tied embeddings",
        "Llama 3 positions",
        "linear positions",
        "weights of experts as they are",
        "a dense layer first",
        "queries without a latent",
        "YaRN",
        "experts of one group",
    ],
)
def test_what_a_family_leaves_open(forge: Forge, tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    policy = write_policy(tmp_path / "policy", family, **sizes)

    answer = compared(forge, tmp_path, policy, samples_of(policy))

    assert isinstance(answer, Trained), answer
    assert 0 < answer.max_abs_logprob_difference <= LIMIT


def test_log_probabilities_are_at_the_sampling_temperature(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    samples = samples_of(untied_policy, temperature=0.7)

    answer = compared(forge, tmp_path, untied_policy, samples, temperature=0.7)

    assert isinstance(answer, Trained), answer
    assert answer.max_abs_logprob_difference <= LIMIT


def test_padding_of_the_vocabulary_is_no_token(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    answer = compared(forge, tmp_path, untied_policy, samples_of(untied_policy), plant=padded_embeddings)

    assert isinstance(answer, Trained), answer
    assert answer.max_abs_logprob_difference <= LIMIT


def test_padding_in_the_softmax_is_caught(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    answer = compared(forge, tmp_path, untied_policy, samples_of(untied_policy), plant=padding_in_the_softmax)

    assert is_too_far(answer), answer


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_query_key_and_value_as_three_blocks_are_caught(
    forge: Forge, untied_policy: Path, tmp_path: Path, kind: str
) -> None:
    wrong = with_three_blocks(untied_policy, tmp_path / "wrong", kind)

    assert is_too_far(compared(forge, tmp_path, wrong, samples_of(untied_policy)))


def test_gate_and_up_swapped_are_caught(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    wrong = with_halves_swapped(untied_policy, tmp_path / "wrong")

    assert is_too_far(compared(forge, tmp_path, wrong, samples_of(untied_policy)))


@pytest.mark.parametrize("name", ["model.norm.weight", f"{ATTENTION}.v_proj.bias", "lm_head.weight"])
def test_a_weight_left_at_its_default_is_caught(forge: Forge, untied_policy: Path, tmp_path: Path, name: str) -> None:
    plain = torch.ones_like if "norm" in name else torch.zeros_like
    wrong = changed_policy(untied_policy, tmp_path / "wrong", {name: plain(weights_in(untied_policy)[name])})

    assert is_too_far(compared(forge, tmp_path, wrong, samples_of(untied_policy)))


@pytest.mark.parametrize("sizes", [{}, {"norm_topk_prob": False}], ids=["adding up to 1", "as they are"])
def test_the_other_order_of_the_softmax_is_caught(forge: Forge, tmp_path: Path, sizes: dict[str, Any]) -> None:
    answer = caught(forge, tmp_path, "qwen3_moe", other_softmax_order, **sizes)

    assert is_too_far(answer), answer


def test_the_other_order_of_mixtrals_softmax_is_caught(forge: Forge, tmp_path: Path) -> None:
    answer = caught(forge, tmp_path, "mixtral", other_softmax_order)

    assert is_too_far(answer), answer


@pytest.mark.parametrize("plant", [unscaled_rope, rope_of_megatron], ids=["none", "of other constants"])
def test_other_scaling_of_positions_is_caught(forge: Forge, tmp_path: Path, plant: Callable[[], None]) -> None:
    answer = caught(forge, tmp_path, "llama", plant, rope_parameters=LLAMA3_ROPE)

    assert is_too_far(answer), answer


def test_a_dropped_bias_of_experts_is_caught(forge: Forge, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", "deepseek_v3")
    name = f"{FEED_FORWARD}.gate.e_score_correction_bias"
    wrong = changed_policy(policy, tmp_path / "wrong", {name: torch.zeros_like(weights_in(policy)[name])})

    assert is_too_far(compared(forge, tmp_path, wrong, samples_of(policy)))


def test_fp8_with_block_scales(forge: Forge, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", "deepseek_v3")
    quantised = write_block_scales(policy, tmp_path / "quantised")

    answer = compared(forge, tmp_path, quantised, samples_of(policy))

    assert isinstance(answer, Trained), answer
    assert answer.max_abs_logprob_difference <= LIMIT


def test_fp8_without_its_scales_is_caught(forge: Forge, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", "deepseek_v3")
    quantised = write_block_scales(policy, tmp_path / "quantised")

    assert is_too_far(compared(forge, tmp_path, quantised, samples_of(policy), plant=ignored_scales))


def test_a_head_as_wide_as_its_share_of_the_hidden_state_is_caught(forge: Forge, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy", "qwen3")
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps({**config, "head_dim": None}))
    rank = forge.start_bare(job_config(policy), tmp_path)

    answer = rank.ask(Build(place=ALONE, source=FolderSource(path=str(policy))), Refused)

    assert "self_attn" in answer.reason
