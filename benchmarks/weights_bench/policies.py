"""The policies that are exported, and the small ones of which every pair of layouts is planned."""

from dataclasses import replace

from tests.tandem_checkpoint.layouts.models import model

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


def small_policies() -> dict[str, PolicyConfig]:
    """Return a small policy of every family, and of every family with tied embeddings, by name."""
    plain = {family: model(family, num_heads=8, num_key_value_heads=4) for family in ARCHITECTURES}
    return plain | {f"{name}, tied": replace(policy, tied_embeddings=True) for name, policy in plain.items()}
