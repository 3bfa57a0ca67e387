"""Policies of every family with sizes by chance, their tensors as numbers of which no two are alike, and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import lcm, prod

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_checkpoint.architectures import ARCHITECTURES, architecture_of
from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_checkpoint.architectures.block_split import block_problems
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.split import SplitRefused, check_split, check_trainer_split
from tandem_checkpoint.layouts.place import ServerPlace, TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.layouts.strip import LocalParameter
from tests.tandem_checkpoint.policies import SMALL

Numbers = NDArray[np.int32]
PADDING = -1
FAMILIES = tuple(ARCHITECTURES)
EXPERTS = {"num_experts": 4, "experts_per_token": 2, "expert_intermediate": 8}
LATENT = {"kv_lora_rank": 12, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 6}
SIZES: Mapping[str, Mapping[str, object]] = {
    "MixtralForCausalLM": EXPERTS,
    "Qwen3MoeForCausalLM": EXPERTS | {"dense_layers": (1,)},
    "DeepseekV3ForCausalLM": EXPERTS
    | LATENT
    | {"q_lora_rank": 8, "shared_intermediate": 16, "dense_layers": (0,), "num_key_value_heads": 4, "head_dim": 8},
}


def model(family: str, **sizes: object) -> PolicyConfig:
    """Return a policy of a family, small in all directions; a head is not hidden over heads."""
    small = {
        "num_layers": 4,
        "hidden": 6,
        "intermediate": 8,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 2,
        "vocabulary": 13,
    }
    return replace(SMALL, architecture=family, **(small | dict(SIZES.get(family, {})) | sizes))  # type: ignore[arg-type]


@st.composite
def models(draw: st.DrawFn, families: Sequence[str] = FAMILIES) -> PolicyConfig:
    """A policy of any family."""
    family, groups = draw(st.sampled_from(families)), draw(st.sampled_from([1, 2, 4]))
    sizes: dict[str, object] = {
        "num_layers": draw(st.integers(1, 6)),
        "vocabulary": draw(st.integers(5, 70)),
        "tied_embeddings": draw(st.booleans()),
        "intermediate": 4 * draw(st.integers(1, 3)),
        "num_heads": groups * draw(st.integers(1, 3)),
        "num_key_value_heads": groups,
    }
    if family == "DeepseekV3ForCausalLM":
        sizes["num_key_value_heads"] = sizes["num_heads"]
        sizes["q_lora_rank"] = draw(st.sampled_from([0, 8]))
        sizes["dense_layers"] = tuple(range(draw(st.integers(0, 2))))
    return model(family, **sizes)


@st.composite
def split_models(draw: st.DrawFn, families: Sequence[str] = FAMILIES) -> tuple[PolicyConfig, TrainerSplit]:
    """A policy, and a split that it can be trained in."""
    policy, small = draw(models(families)), st.sampled_from([1, 2, 4])
    split = TrainerSplit(
        draw(small),
        draw(st.sampled_from([1, 2, 3])),
        draw(st.sampled_from([1, 1, 2])),
        expert=draw(small) if policy.num_experts else 1,
        expert_tensor=draw(st.sampled_from([1, 2])) if policy.num_experts else 1,
        first_stage_layers=draw(st.sampled_from([None, None, 1, 2])),
        last_stage_layers=draw(st.sampled_from([None, None, 1, 2])),
    )
    for fitting in (split, replace(split, virtual_pipeline=1, first_stage_layers=None, last_stage_layers=None)):
        if fits(policy, fitting):
            return policy, fitting
    fitting = TrainerSplit(expert=split.expert, expert_tensor=split.expert_tensor)
    return policy, fitting if fits(policy, fitting) else TrainerSplit()


@st.composite
def quantised_models(draw: st.DrawFn) -> tuple[PolicyConfig, TrainerSplit]:
    """A policy with FP8 matrices in small blocks, smaller ones at the edge, and a split that cuts none of them."""
    policy, split = draw(split_models())
    block, has_powers = draw(st.sampled_from([(2, 2), (4, 2), (2, 4), (1, 3)])), draw(st.booleans())
    scales = BlockScales(block, routers_of(policy), has_powers)
    policy = replace(policy, hidden=draw(st.sampled_from([6, 7])), block_scales=scales)
    assume(not any(block_problems(policy)))
    splits = (split, replace(split, expert_tensor=1), replace(split, tensor=1, expert_tensor=1), TrainerSplit())
    return policy, next(one for one in splits if fits(policy, one))


def routers_of(policy: PolicyConfig) -> frozenset[str]:
    """Return the modules that published lists leave out of FP8."""
    return frozenset(f"model.layers.{layer}.mlp.gate" for layer in range(policy.num_layers))


def fits(policy: PolicyConfig, split: TrainerSplit) -> bool:
    try:
        check_trainer_split(policy, split)
    except SplitRefused:
        return False
    return True


def places_of(split: TrainerSplit, copies: int = 1) -> tuple[TrainerPlace, ...]:
    """Return the places of the smallest pod that has whole models in this split, or of some of them together."""
    per_stage = lcm(split.tensor, split.expert * split.expert_tensor)
    return PodRanks(split, per_stage * split.pipeline * copies).places()


@cache
def server_places(policy: PolicyConfig, num_ranks: int, has_expert_parallel: bool) -> list[ServerPlace]:
    """Return the places of a server's ranks; of one alone where the policy does not divide."""
    try:
        check_split(policy, num_ranks)
    except SplitRefused:
        num_ranks = 1
    return [ServerPlace(num_ranks, rank, has_expert_parallel) for rank in range(num_ranks)]


def shapes_of(policy: PolicyConfig) -> dict[str, tuple[int, ...]]:
    rules = architecture_of(policy.architecture).rules(policy)
    return {name: shape for rule in rules for name, shape in rule.tensors(policy)}


@cache
def tensors_of(policy: PolicyConfig) -> dict[str, Numbers]:
    """Return every tensor of a policy; each of all their elements is another number."""
    tensors, first = {}, 0
    for name, shape in shapes_of(policy).items():
        tensors[name] = np.arange(first, first + prod(shape), dtype=np.int32).reshape(shape)
        first += prod(shape)
    return tensors


def put_in(parameter: LocalParameter, tensors: Mapping[str, Numbers]) -> Numbers:
    """Return what a parameter holds after an import."""
    held = np.full(parameter.shape, PADDING, np.int32)
    for strip in parameter.strips:
        held[strip.in_parameter] = tensors[strip.tensor][strip.in_tensor]
    return held


def put_all(parameters: Sequence[LocalParameter], tensors: Mapping[str, Numbers]) -> dict[str, Numbers]:
    return {parameter.name: put_in(parameter, tensors) for parameter in parameters}
