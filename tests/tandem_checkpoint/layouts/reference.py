"""What vLLM and Megatron hold, worked out in another way than by strips: whole tensors cut and joined with NumPy."""

import re
from collections.abc import Mapping

import numpy as np

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import ServerPlace
from tests.tandem_checkpoint.layouts.models import PADDING, Numbers

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
}
BY_ROWS = re.compile(r"\.(q_proj|q_b_proj|kv_b_proj|gate_proj|up_proj|w1|w3)\.")
BY_COLUMNS = re.compile(r"\.(o_proj|down_proj|w2)\.")
EXPERTS = re.compile(r"(.*)\.experts\.routed_experts\.(w13|w2)_weight")


def megatron_qkv(query: Numbers, key: Numbers, value: Numbers, policy: PolicyConfig, tensor: int, of: int) -> Numbers:
    """Return a rank's rows of the fused projection: whole groups, each its queries, its key, its value."""
    groups, rest = policy.num_key_value_heads, query.shape[1:]
    fused = np.concatenate([part.reshape(groups, -1, *rest) for part in (query, key, value)], axis=1)
    return np.split(fused, of)[tensor].reshape(-1, *rest)


def server_holds(name: str, tensors: Mapping[str, Numbers], policy: PolicyConfig, place: ServerPlace) -> Numbers:
    """Return what a rank of a server holds of one of vLLM's parameters."""
    if name.startswith(("model.embed_tokens", "lm_head")):
        whole = tensors[name]
        num_rows = -(-whole.shape[0] // 64) * 64
        padded = np.full((num_rows, whole.shape[1]), PADDING, np.int32)
        padded[: whole.shape[0]] = whole
        return np.split(padded, place.num_tensor)[place.tensor]
    experts = EXPERTS.fullmatch(name)
    if experts:
        return _experts(experts[1], experts[2] == "w13", tensors, policy, place)
    *before, module, kind = name.split(".")
    parts = FUSED.get(module, (module,))
    return np.concatenate([_shared(".".join([*before, part, kind]), tensors, policy, place) for part in parts])


def _experts(
    module: str, is_first: bool, tensors: Mapping[str, Numbers], policy: PolicyConfig, place: ServerPlace
) -> Numbers:
    first, second, third = ("w1", "w3", "w2") if "block_sparse" in module else ("gate_proj", "up_proj", "down_proj")
    numbers = np.arange(policy.num_experts)
    cut = place
    if place.has_expert_parallel:
        numbers, cut = np.array_split(numbers, place.num_tensor)[place.tensor], ServerPlace()
    parts = (first, second) if is_first else (third,)
    return np.stack(
        [
            np.concatenate(
                [_shared(f"{module}.experts.{expert}.{part}.weight", tensors, policy, cut) for part in parts]
            )
            for expert in numbers
        ]
    )


def _shared(name: str, tensors: Mapping[str, Numbers], policy: PolicyConfig, place: ServerPlace) -> Numbers:
    """Return a rank's part of one tensor."""
    whole = tensors[name]
    if re.search(r"\.[kv]_proj\.", name):
        heads = whole.reshape(policy.num_key_value_heads, -1, *whole.shape[1:])
        if place.num_tensor > policy.num_key_value_heads:
            heads = np.repeat(heads, place.num_tensor // policy.num_key_value_heads, axis=0)
        return np.split(heads, place.num_tensor)[place.tensor].reshape(-1, *whole.shape[1:])
    if BY_ROWS.search(name):
        return np.split(whole, place.num_tensor)[place.tensor]
    if BY_COLUMNS.search(name):
        return np.split(whole, place.num_tensor, axis=1)[place.tensor]
    return whole
