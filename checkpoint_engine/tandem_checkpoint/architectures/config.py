"""The sizes of a policy, from the config.json of its Hugging Face folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_checkpoint.architectures.block_scales import BlockScales, read_block_scales
from tandem_checkpoint.architectures.features import (
    RopeScaling,
    UnsupportedFeature,
    check_expert_choice,
    check_features,
    read_rope,
)


class PolicyFolderError(Exception):
    """The folder is no usable policy; the message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Sizes of a decoder-only transformer."""

    architecture: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    """Of queries and keys; with latent attention the part without positions and the rotary part together."""
    vocabulary: int
    max_positions: int
    tied_embeddings: bool
    norm_epsilon: float
    rope_theta: float
    eos_token_id: int
    rope_scaling: RopeScaling | None = None
    block_scales: BlockScales | None = None
    """How matrices are handed over and saved, where that is FP8 with a scale a block; they are trained as all else."""

    num_experts: int = 0
    """Routed experts of a layer that has experts; 0 where no layer has."""
    experts_per_token: int = 0
    expert_intermediate: int = 0
    """Width of one routed expert."""
    shared_intermediate: int = 0
    """Width of all shared experts together, which are one feed-forward; 0 where there are none."""
    dense_layers: tuple[int, ...] = ()
    """Layers without experts, where others have them."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts are made to add up to 1."""
    has_sigmoid_router: bool = False
    """Whether experts are scored by a sigmoid and chosen with a bias, as DeepSeek-V3 does; else by a softmax."""
    routed_scaling_factor: float = 1.0
    expert_groups: int = 1
    groups_per_token: int = 1
    """A token's experts come from so many groups."""

    q_lora_rank: int = 0
    """0: queries come straight from the hidden state."""
    kv_lora_rank: int = 0
    """Width of the latent of keys and values; 0: no latent attention."""
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0

    def is_moe_layer(self, layer: int) -> bool:
        """Tell whether a layer, counted from 0, has experts."""
        return self.num_experts > 0 and layer not in self.dense_layers


def read_policy_config(folder: Path) -> PolicyConfig:
    """Read config.json; raise PolicyFolderError where the folder, the file or a field is missing."""
    if not folder.is_dir():
        raise PolicyFolderError(f"{folder} is not a folder; make the policy there, or correct the path")
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise PolicyFolderError(f"{path} is missing; the folder must be in Hugging Face format") from None
    except OSError as error:
        raise PolicyFolderError(f"{path} cannot be read ({error.strerror}); mend the folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PolicyFolderError(f"{path} is not JSON ({error}); write the folder again") from None
    if not isinstance(raw, dict):
        raise PolicyFolderError(f"{path} is no JSON object; write the folder again with transformers")
    try:
        return _parse(raw)
    except UnsupportedFeature as error:
        raise PolicyFolderError(f"{path}: {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise PolicyFolderError(f"{path} holds a wrong value ({error}); write the folder again") from None
    except (KeyError, IndexError) as error:
        raise PolicyFolderError(f"{path} lacks {error}; write the folder again with transformers") from None


def _parse(raw: Mapping[str, Any]) -> PolicyConfig:
    heads = raw["num_attention_heads"]
    if not raw.get("architectures"):
        raise KeyError("architectures")
    architecture = raw["architectures"][0]
    check_features(architecture, raw)
    rope_theta, rope_scaling = read_rope(architecture, raw)
    eos = raw.get("eos_token_id")
    sizes: dict[str, Any] = {
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": int(raw.get("head_dim") or raw["hidden_size"] // heads),
        **(_FAMILY_SIZES[architecture](raw) if architecture in _FAMILY_SIZES else {}),
    }
    return PolicyConfig(
        architecture=architecture,
        num_layers=raw["num_hidden_layers"],
        hidden=raw["hidden_size"],
        intermediate=raw["intermediate_size"],
        num_heads=heads,
        vocabulary=raw["vocab_size"],
        max_positions=raw["max_position_embeddings"],
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        norm_epsilon=raw["rms_norm_eps"],
        rope_theta=rope_theta,
        eos_token_id=eos[0] if isinstance(eos, list) else int(eos if eos is not None else -1),
        rope_scaling=rope_scaling,
        block_scales=read_block_scales(raw),
        **sizes,
    )


def _mixtral(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": raw["num_local_experts"],
        "experts_per_token": raw["num_experts_per_tok"],
        "expert_intermediate": raw["intermediate_size"],
    }


def _qwen3_moe(raw: Mapping[str, Any]) -> dict[str, Any]:
    step, without = raw.get("decoder_sparse_step", 1), raw.get("mlp_only_layers") or ()
    layers = range(raw["num_hidden_layers"])
    return {
        # transformers 5 renames the field as it writes it
        "num_experts": raw["num_local_experts"] if "num_local_experts" in raw else raw["num_experts"],
        "experts_per_token": raw["num_experts_per_tok"],
        "expert_intermediate": raw["moe_intermediate_size"],
        "dense_layers": tuple(layer for layer in layers if layer in without or (layer + 1) % step),
        "norm_topk_prob": bool(raw.get("norm_topk_prob", False)),
    }


def _deepseek_v3(raw: Mapping[str, Any]) -> dict[str, Any]:
    check_expert_choice(raw)
    nope, rope = raw["qk_nope_head_dim"], raw["qk_rope_head_dim"]
    return {
        "num_key_value_heads": raw["num_attention_heads"],
        "head_dim": nope + rope,
        "num_experts": raw["n_routed_experts"],
        "experts_per_token": raw["num_experts_per_tok"],
        "expert_intermediate": raw["moe_intermediate_size"],
        "shared_intermediate": raw["moe_intermediate_size"] * (raw.get("n_shared_experts") or 0),
        "dense_layers": tuple(range(raw["first_k_dense_replace"])),
        "has_sigmoid_router": True,
        "routed_scaling_factor": float(raw["routed_scaling_factor"]),
        "expert_groups": raw.get("n_group") or 1,
        "groups_per_token": raw.get("topk_group") or 1,
        "q_lora_rank": raw.get("q_lora_rank") or 0,
        "kv_lora_rank": raw["kv_lora_rank"],
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": raw["v_head_dim"],
    }


_FAMILY_SIZES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "MixtralForCausalLM": _mixtral,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekV3ForCausalLM": _deepseek_v3,
}
"""Families with sizes of their own."""
