"""What a policy's config.json asks for beyond sizes: taken where every side computes it alike, else refused.

Field names and defaults are those of transformers 5; the older places of rotary settings are read as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

Raw = Mapping[str, Any]
LATENT_ATTENTION = ("DeepseekV3ForCausalLM",)
BIASED_QUERIES = ("Qwen2ForCausalLM",)
"""Families whose query, key and value projections have a bias, whatever config.json says."""
GROUP_SCORE_EXPERTS = 2
"""DeepSeek-V3 scores a group by its two best experts (arXiv:2412.19437, section 2.1.2)."""


class UnsupportedFeature(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The policy has a part that is not computed here; the message names the field and the fix."""


class RopeKind(Enum):
    """How rotary frequencies are stretched beyond the positions of the first training."""

    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Stretched rotary frequencies; a field that the kind does not use keeps its default."""

    kind: RopeKind
    factor: float
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


def read_rope(architecture: str, raw: Raw) -> tuple[float, RopeScaling | None]:
    """Return theta and the stretching; raise UnsupportedFeature for one that is not computed here."""
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    _refuse_unless(rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) == 1.0, "a partial rotary")
    name = rope.get("rope_type", rope.get("type", "default"))
    if name == "default":
        return theta, None
    latent = architecture in LATENT_ATTENTION
    known = ["default", "yarn"] if latent else ["default", "linear", "llama3"]
    if name not in known:
        raise UnsupportedFeature(f"rope_type {name} is not supported for this family; use one of {', '.join(known)}")
    _refuse_unless(rope.get("attention_factor") is None, "an attention_factor of its own")
    _refuse_unless(rope.get("truncate", True) is True, "truncate: false")
    return theta, _scaling(RopeKind(name), rope, raw)


def _scaling(kind: RopeKind, rope: Raw, raw: Raw) -> RopeScaling:
    factor = float(rope["factor"])
    match kind:
        case RopeKind.LINEAR:
            return RopeScaling(kind, factor)
        case RopeKind.LLAMA3:
            return RopeScaling(
                kind,
                factor,
                int(rope["original_max_position_embeddings"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
            )
        case RopeKind.YARN:
            return RopeScaling(
                kind,
                factor,
                int(rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]),
                beta_fast=float(rope.get("beta_fast") or 32.0),
                beta_slow=float(rope.get("beta_slow") or 1.0),
                mscale=float(rope.get("mscale") or 1.0),
                mscale_all_dim=float(rope.get("mscale_all_dim") or 0.0),
            )


def check_features(architecture: str, raw: Raw) -> None:
    """Raise UnsupportedFeature for a part of the network that is not computed here."""
    activation = raw.get("hidden_act", "silu")
    _refuse_unless(activation == "silu", f"the activation {activation}")
    _refuse_unless(not raw.get("attention_bias") or architecture in BIASED_QUERIES, "attention_bias")
    _refuse_unless(not raw.get("mlp_bias"), "mlp_bias")
    window = raw.get("sliding_window") if raw.get("use_sliding_window", not architecture.startswith("Qwen")) else None
    _refuse_unless(
        window is None or window >= raw["max_position_embeddings"], f"a sliding window of {window} positions"
    )
    _refuse_unless(raw.get("rope_interleave", True) is not False, "rope_interleave: false")


def check_expert_choice(raw: Raw) -> None:
    """Raise UnsupportedFeature where experts are chosen otherwise than DeepSeek-V3 does."""
    _refuse_unless(raw.get("moe_layer_freq", 1) == 1, f"moe_layer_freq {raw.get('moe_layer_freq')}")
    _refuse_unless(raw.get("scoring_func", "sigmoid") == "sigmoid", f"scoring_func {raw.get('scoring_func')}")
    _refuse_unless(raw.get("topk_method", "noaux_tc") == "noaux_tc", f"topk_method {raw.get('topk_method')}")
    _refuse_unless(raw.get("norm_topk_prob", True) is not False, "norm_topk_prob: false with sigmoid scores")
    groups, chosen, experts = raw.get("n_group") or 1, raw.get("topk_group") or 1, raw["num_experts_per_tok"]
    if groups > 1 and experts != GROUP_SCORE_EXPERTS * chosen:
        raise UnsupportedFeature(
            f"num_experts_per_tok is {experts} with topk_group {chosen}; Megatron scores a group by its "
            f"num_experts_per_tok / topk_group best experts, the model by its "
            f"{GROUP_SCORE_EXPERTS} best: use {GROUP_SCORE_EXPERTS * chosen} experts a token, or n_group 1"
        )


def _refuse_unless(fine: bool, feature: str) -> None:
    if not fine:
        raise UnsupportedFeature(f"{feature} is not supported; use a policy without it")
