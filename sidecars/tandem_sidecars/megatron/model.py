"""The policy as a Megatron-Core GPT model, wrapped for data parallelism."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.transformer_config import TransformerConfig

from tandem_api.job.pods import OptimizerSpec
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_sidecars.megatron.attention import ServerOrderAttention
from tandem_sidecars.megatron.device import Device


def transformer_config(policy: PolicyConfig, dtype: torch.dtype) -> TransformerConfig:
    """Return Megatron's configuration of the policy, without the fused kernels that only CUDA has."""
    architecture = architecture_of(policy.architecture)
    return TransformerConfig(
        num_layers=policy.num_layers,
        hidden_size=policy.hidden,
        ffn_hidden_size=policy.intermediate,
        num_attention_heads=policy.num_heads,
        num_query_groups=policy.num_key_value_heads,
        kv_channels=policy.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=policy.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=architecture.qkv_bias,
        qk_layernorm=architecture.qk_norm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        use_cpu_initialization=True,
        perform_initialization=False,
        attention_softmax_in_fp32=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
    )


def build_model(policy: PolicyConfig, dtype: torch.dtype, device: Device) -> DistributedDataParallel:
    """Return the model on its device, with uninitialised weights."""
    module = build_module(policy, dtype, device)
    return DistributedDataParallel(
        module.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, overlap_grad_reduce=False, use_distributed_optimizer=False
        ),
        module,
    )


def build_module(policy: PolicyConfig, dtype: torch.dtype, device: Device) -> GPTModel:
    """Return Megatron's GPT model without the wrapper of data parallelism."""
    architecture = architecture_of(policy.architecture)
    specification = get_gpt_layer_local_spec(qk_layernorm=architecture.qk_norm, normalization="RMSNorm")
    if device.torch_device.type == "cpu" and dtype is torch.float32:
        specification.submodules.self_attention.submodules.core_attention = ServerOrderAttention
    module = GPTModel(
        transformer_config(policy, dtype),
        specification,
        vocab_size=policy.vocabulary,
        max_sequence_length=policy.max_positions,
        position_embedding_type="rope",
        rotary_base=int(policy.rope_theta),
        share_embeddings_and_output_weights=policy.tied_embeddings,
    )
    return module.to(device.torch_device, dtype)


def build_optimizer(model: DistributedDataParallel, spec: OptimizerSpec, dtype: torch.dtype) -> MegatronOptimizer:
    """Return Megatron's Adam over the model, with empty moments."""
    return get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=spec.learning_rate,
            min_lr=spec.learning_rate,
            adam_beta1=spec.betas[0],
            adam_beta2=spec.betas[1],
            adam_eps=spec.epsilon,
            weight_decay=spec.weight_decay,
            clip_grad=spec.gradient_clip,
            bf16=dtype is torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=False,
        ),
        [model],
    )
