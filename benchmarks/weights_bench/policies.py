"""The policies that are exported, and the small ones of which every pair of layouts is planned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tandem_checkpoint.architectures import ARCHITECTURES
from tandem_checkpoint.architectures.config import PolicyConfig

DENSE = PolicyConfig(
    architecture="Qwen2ForCausalLM",
    num_layers=4,
    hidden=896,
    intermediate=4864,
    num_heads=14,
    num_key_value_heads=2,
    head_dim=64,
    vocabulary=32_000,
    max_positions=4096,
    tied_embeddings=True,
    norm_epsilon=1e-6,
    rope_theta=1e6,
    eos_token_id=2,
)
"""Layers of Qwen2.5-0.5B; 353 MB in float32."""
EXPERTS = replace(
    DENSE,
    architecture="Qwen3MoeForCausalLM",
    num_layers=2,
    hidden=1024,
    num_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    vocabulary=16_000,
    num_experts=16,
    experts_per_token=4,
    expert_intermediate=768,
)
"""Layers as Qwen3-30B-A3B has them, half as wide and with fewer experts; 418 MB in float32."""

_SMALL: Mapping[str, Any] = {
    "num_layers": 4,
    "hidden": 24,
    "intermediate": 32,
    "num_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "vocabulary": 70,
}
_SMALL_EXPERTS = {"num_experts": 4, "experts_per_token": 2, "expert_intermediate": 16}
_FAMILY_SIZES: Mapping[str, Mapping[str, Any]] = {
    "MixtralForCausalLM": _SMALL_EXPERTS,
    "Qwen3MoeForCausalLM": {**_SMALL_EXPERTS, "dense_layers": (1,)},
    "DeepseekV3ForCausalLM": {
        **_SMALL_EXPERTS,
        "num_key_value_heads": 8,
        "shared_intermediate": 16,
        "dense_layers": (0,),
        "q_lora_rank": 8,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "head_dim": 8,
        "v_head_dim": 4,
    },
}


def small_policies() -> dict[str, PolicyConfig]:
    """Return a small policy of every family, and of every family with tied embeddings, by name."""
    plain = {
        family: replace(
            DENSE, architecture=family, tied_embeddings=False, **{**_SMALL, **_FAMILY_SIZES.get(family, {})}
        )
        for family in ARCHITECTURES
    }
    return plain | {f"{name}, tied": replace(policy, tied_embeddings=True) for name, policy in plain.items()}
