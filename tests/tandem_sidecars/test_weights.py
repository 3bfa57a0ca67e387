"""Weights between Hugging Face and Megatron: nothing is lost, and the order is Megatron's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError
from tandem_checkpoint.architectures.qwen2 import QWEN2
from tandem_checkpoint.architectures.table import NamedRule, Split
from tandem_sidecars.megatron.weights import from_megatron, named_tensors, read_folder, to_megatron
from tests.tandem_checkpoint.policies import SMALL, TIED

heads = st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 4, 6]))


def rule_of(split: Split, policy: PolicyConfig = SMALL) -> NamedRule:
    return next(rule for rule in QWEN2.rules(policy) if rule.split is split and rule.layer == 1)


def random_tensors(policy: PolicyConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random weights for every tensor of a policy, by Hugging Face name."""
    generator = torch.Generator().manual_seed(seed)
    shapes = dict(item for rule in QWEN2.rules(policy) for item in rule.tensors(policy))
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def round_trip(tensors: dict[str, torch.Tensor], policy: PolicyConfig) -> dict[str, torch.Tensor]:
    parameters = {rule.megatron: to_megatron(rule, tensors, policy) for rule in QWEN2.rules(policy)}
    return dict(named_tensors(QWEN2.rules(policy), parameters, policy))


@given(heads, st.integers(0, 99), st.booleans())
def test_every_tensor_comes_back_bit_by_bit(sizes: tuple[int, int, int], seed: int, tied: bool) -> None:
    groups, ratio, head_dim = sizes
    policy = replace(
        SMALL, num_heads=groups * ratio, num_key_value_heads=groups, head_dim=head_dim, hidden=8, tied_embeddings=tied
    )
    tensors = random_tensors(policy, seed)

    back = round_trip(tensors, policy)

    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_query_key_and_value_go_by_group() -> None:
    policy = replace(SMALL, num_heads=4, num_key_value_heads=2, head_dim=2)
    bias = "decoder.layers.1.self_attention.linear_qkv.bias"
    rule = next(rule for rule in QWEN2.rules(policy) if rule.megatron == bias)
    query, key, value = (name for name, _ in rule.tensors(policy))
    tensors = {query: torch.arange(0, 8), key: torch.arange(100, 104), value: torch.arange(200, 204)}

    fused = to_megatron(rule, tensors, policy)

    assert fused.tolist() == [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]


def test_gate_stands_above_up() -> None:
    rule = rule_of(Split.HALVES)
    tensors = random_tensors(SMALL)

    fused = to_megatron(rule, tensors, SMALL)

    assert torch.equal(fused[: SMALL.intermediate], tensors["model.layers.1.mlp.gate_proj.weight"])
    assert torch.equal(fused[SMALL.intermediate :], tensors["model.layers.1.mlp.up_proj.weight"])


def test_three_plain_blocks_are_not_megatrons_order() -> None:
    rule = rule_of(Split.QKV)
    tensors = random_tensors(SMALL)

    plain = torch.cat([tensors[name] for name, _ in rule.tensors(SMALL)])

    assert not torch.equal(to_megatron(rule, tensors, SMALL), plain)


def test_a_missing_tensor_is_named() -> None:
    tensors = random_tensors(SMALL)
    del tensors["model.layers.1.self_attn.k_proj.weight"]

    with pytest.raises(PolicyFolderError, match=r"lacks the tensor model\.layers\.1\.self_attn\.k_proj\.weight"):
        round_trip(tensors, SMALL)


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    tensors = random_tensors(SMALL) | {"model.norm.weight": torch.zeros(63)}

    with pytest.raises(PolicyFolderError, match=r"model\.norm\.weight is \(63,\), config\.json says \(64,\)"):
        round_trip(tensors, SMALL)


def test_a_tied_policy_has_no_head_of_its_own() -> None:
    assert "lm_head.weight" not in round_trip(random_tensors(TIED), TIED)


def test_a_folder_in_several_files_is_read_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-00002-of-00002.safetensors")

    assert read_folder(tmp_path).keys() == {"a", "b"}


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match=r"holds no \.safetensors file"):
        read_folder(tmp_path)


def test_the_split_views_share_memory_where_the_layout_allows() -> None:
    fused = torch.arange(2 * SMALL.intermediate * SMALL.hidden, dtype=torch.float32).view(-1, SMALL.hidden)

    gate, _ = from_megatron(rule_of(Split.HALVES), fused, SMALL)

    assert gate.data_ptr() == fused.data_ptr()
