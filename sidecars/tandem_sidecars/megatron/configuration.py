"""Each family as Megatron-Core's configuration and layer specification.

Names of fields are Megatron-Core 0.16.1's. What the families differ in comes from the policy's config.json and the
family's table; whatever Megatron would take from a default of its own is said here.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.features import RopeKind, RopeScaling
from tandem_sidecars.megatron.attention import LatentAttention, PackedAttention, ServerOrderAttention
from tandem_sidecars.megatron.device import Device
from tandem_sidecars.megatron.engine_absence import do_without_engine
from tandem_sidecars.megatron.norm import RmsNorm


def transformer_config(policy: PolicyConfig, dtype: torch.dtype, *, has_engine: bool = False) -> TransformerConfig:
    """Return Megatron's configuration of the policy for one rank, without the fused kernels that only CUDA has.

    Args: has_engine: whether layers come from Transformer Engine: experts are then multiplied in one grouped call. No
        test runs with it.
    """
    fields = _fields(policy, dtype) | _expert_fields(policy, has_engine)
    if policy.kv_lora_rank:
        return MLATransformerConfig(**fields | _latent_fields(policy))
    return TransformerConfig(**fields)


def _fields(policy: PolicyConfig, dtype: torch.dtype) -> dict[str, Any]:
    architecture = architecture_of(policy.architecture)
    return {
        "num_layers": policy.num_layers,
        "hidden_size": policy.hidden,
        "ffn_hidden_size": policy.intermediate,
        "num_attention_heads": policy.num_heads,
        "num_query_groups": policy.num_key_value_heads,
        "kv_channels": policy.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": policy.norm_epsilon,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "add_qkv_bias": architecture.qkv_bias,
        "qk_layernorm": architecture.qk_norm,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "use_cpu_initialization": True,
        "perform_initialization": False,
        "attention_softmax_in_fp32": True,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
        "persist_layer_norm": False,
    }


def _expert_fields(policy: PolicyConfig, has_engine: bool) -> dict[str, Any]:
    """Return what experts add. Losses that balance them are off: the objective is the job's alone."""
    if not policy.num_experts:
        return {}
    is_grouped = policy.expert_groups > 1
    return {
        "num_moe_experts": policy.num_experts,
        "moe_layer_freq": [int(policy.is_moe_layer(layer)) for layer in range(policy.num_layers)],
        "moe_ffn_hidden_size": policy.expert_intermediate,
        "moe_shared_expert_intermediate_size": policy.shared_intermediate or None,
        "moe_grouped_gemm": has_engine,
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_topk": policy.experts_per_token,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_router_score_function": "sigmoid" if policy.has_sigmoid_router else "softmax",
        "moe_router_pre_softmax": has_softmax_first(policy),
        "moe_router_topk_scaling_factor": policy.routed_scaling_factor,
        "moe_router_enable_expert_bias": policy.has_sigmoid_router,
        # The bias is the policy's, as the server has it: Megatron is not to move it after each step
        "moe_router_bias_update_rate": 0.0,
        "moe_router_num_groups": policy.expert_groups if is_grouped else None,
        "moe_router_group_topk": policy.groups_per_token if is_grouped else None,
    }


def has_softmax_first(policy: PolicyConfig) -> bool:
    """Tell whether the router's softmax goes over all experts, with weights left as they are after the choice.

    A softmax over all that is then made to add up to 1 is a softmax over the chosen: Megatron's other order.
    """
    return not policy.has_sigmoid_router and not policy.norm_topk_prob


def _latent_fields(policy: PolicyConfig) -> dict[str, Any]:
    """Return what multi-head latent attention adds (arXiv:2412.19437, section 2.1.1)."""
    scaling = policy.rope_scaling
    fields = {
        "multi_latent_attention": True,
        "qk_layernorm": True,
        # Megatron's attention without Transformer Engine takes the width of its output from here
        "kv_channels": policy.v_head_dim,
        "q_lora_rank": policy.q_lora_rank or None,
        "kv_lora_rank": policy.kv_lora_rank,
        "qk_head_dim": policy.qk_nope_head_dim,
        "qk_pos_emb_head_dim": policy.qk_rope_head_dim,
        "v_head_dim": policy.v_head_dim,
        "rotary_base": policy.rope_theta,
        "rope_type": "rope",
        # Scales the softmax too, whatever the rope's type
        "rotary_scaling_factor": 1.0,
    }
    if scaling is None:
        return fields
    return fields | {
        "rope_type": scaling.kind.value,
        "rotary_scaling_factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_positions,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }


def layer_specification(
    policy: PolicyConfig,
    device: Device,
    config: TransformerConfig,
    chunk: int | None = None,
    *,
    has_engine: bool = False,
) -> TransformerBlockSubmodules:
    """Return the modules of the layers that this rank's stage, or one chunk of it, holds. Megatron's groups exist."""
    do_without_engine()
    kinds = {
        has_experts: _engine_layer(config, has_experts) if has_engine else _layer(policy, device, config, has_experts)
        for has_experts in (False, True)
    }
    first = get_transformer_layer_offset(config, vp_stage=chunk)
    layers = range(first, first + get_num_layers_to_build(config, vp_stage=chunk))
    return TransformerBlockSubmodules(
        layer_specs=[kinds[policy.is_moe_layer(layer)] for layer in layers], layer_norm=RmsNorm
    )


def _engine_layer(config: TransformerConfig, has_experts: bool) -> ModuleSpec:
    """Return a layer of Transformer Engine's modules, for CUDA; no test runs with it."""
    return get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts if has_experts else None,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
        multi_latent_attention=config.multi_latent_attention,
    )


def _layer(policy: PolicyConfig, device: Device, config: TransformerConfig, has_experts: bool) -> ModuleSpec:
    """Return a layer of Megatron's own modules, with this package's norms and attention."""
    specification = get_gpt_layer_local_spec(
        num_experts=policy.num_experts if has_experts else None,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
        multi_latent_attention=config.multi_latent_attention,
        normalization="RMSNorm",
    )
    layer = specification.submodules
    attention = layer.self_attention.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RmsNorm
    if config.multi_latent_attention:
        attention.q_layernorm = attention.kv_layernorm = RmsNorm
        attention.core_attention = LatentAttention
        return specification
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    is_server_order = device.torch_device.type == "cpu" and config.params_dtype is torch.float32
    attention.core_attention = ServerOrderAttention if is_server_order else PackedAttention
    return specification


def settle(module: GPTModel, policy: PolicyConfig) -> None:
    """Put right what Megatron's modules take from constants of theirs, or lose when they change their number format.

    To be called once the module is on its device in its number format, before its first pass.
    """
    if hasattr(module, "rotary_pos_emb"):
        module.rotary_pos_emb.inv_freq = inverse_frequencies(policy)
    for part in module.modules():
        if isinstance(part, TopKRouter) and part.expert_bias is not None:
            part.expert_bias = part.expert_bias.float()


def inverse_frequencies(policy: PolicyConfig) -> torch.Tensor:
    """Return the rotary frequencies, [head_dim / 2], in radians a position, stretched as the policy says.

    Raises ValueError for YaRN, which Megatron computes itself for latent attention.
    """
    exponents = torch.arange(0, policy.head_dim, 2, dtype=torch.float32) / policy.head_dim
    frequencies = 1.0 / policy.rope_theta**exponents
    scaling = policy.rope_scaling
    if scaling is None:
        return frequencies
    match scaling.kind:
        case RopeKind.LINEAR:
            return frequencies / scaling.factor
        case RopeKind.LLAMA3:
            return _llama3_frequencies(frequencies, scaling)
        case RopeKind.YARN:
            raise ValueError("YaRN is for latent attention only")


def _llama3_frequencies(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Return Llama 3.1's frequencies: slow ones divided by the factor, fast ones kept, a ramp between the two.

    Megatron computes the same with constants of its own (1, 4 and 8192); here they are the policy's.
    """
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies
