"""A rank's part of the policy as Megatron-Core GPT models, one a chunk, each wrapped for data parallelism."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.parallel_state import is_pipeline_first_stage, is_pipeline_last_stage
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from tandem_api.job.pods import OptimizerSpec
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.trainer import padded_vocabulary
from tandem_sidecars.megatron.configuration import layer_specification, settle, transformer_config
from tandem_sidecars.megatron.device import Device


def build_model(
    policy: PolicyConfig, dtype: torch.dtype, device: Device, split: TrainerSplit
) -> list[DistributedDataParallel]:
    """Return this rank's chunks of the model on its device, with uninitialised weights. Megatron's groups exist."""
    config = shared_config(transformer_config(policy, dtype), split)
    gradients = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, overlap_grad_reduce=False, use_distributed_optimizer=False
    )
    chunks = [build_module(policy, config, device, split, number) for number in range(split.virtual_pipeline)]
    return [DistributedDataParallel(config, gradients, chunk) for chunk in chunks]


def shared_config(config: TransformerConfig, split: TrainerSplit) -> TransformerConfig:
    """Return a configuration with the sizes of a split.

    Experts under tensor parallelism need sequences that are shared too (Megatron, transformer/moe/moe_layer.py). Chunks
    of a stage exchange by single sends: with two stages, batched ones would take one direction for the other.
    """
    is_virtual = split.virtual_pipeline > 1
    return replace(
        config,
        tensor_model_parallel_size=split.tensor,
        pipeline_model_parallel_size=split.pipeline,
        virtual_pipeline_model_parallel_size=split.virtual_pipeline if is_virtual else None,
        context_parallel_size=split.context,
        expert_model_parallel_size=split.expert,
        expert_tensor_parallel_size=split.expert_tensor,
        num_layers_in_first_pipeline_stage=split.first_stage_layers,
        num_layers_in_last_pipeline_stage=split.last_stage_layers,
        sequence_parallel=split.tensor > 1 and config.num_moe_experts is not None,
        moe_token_dispatcher_type="alltoall",  # the other one wants sequences of one length, with or without experts
        variable_seq_lengths=split.pipeline > 1 and not is_virtual,
        overlap_p2p_comm=is_virtual,
        batch_p2p_comm=not is_virtual,
        microbatch_group_size_per_vp_stage=split.pipeline,
    )


def build_module(
    policy: PolicyConfig, config: TransformerConfig, device: Device, split: TrainerSplit, chunk: int
) -> GPTModel:
    """Return one chunk of Megatron's GPT model without the wrapper of data parallelism."""
    vp_stage = None if config.virtual_pipeline_model_parallel_size is None else chunk
    module = GPTModel(
        config,
        layer_specification(policy, device, config, vp_stage),
        vocab_size=padded_vocabulary(policy, split),
        max_sequence_length=policy.max_positions,
        pre_process=is_pipeline_first_stage(ignore_virtual=False, vp_stage=chunk),
        post_process=is_pipeline_last_stage(ignore_virtual=False, vp_stage=chunk),
        position_embedding_type="rope",
        rotary_base=int(policy.rope_theta),
        share_embeddings_and_output_weights=policy.tied_embeddings,
        vp_stage=vp_stage,
    )
    module = module.to(device.torch_device, config.params_dtype)
    settle(module, policy)
    _mark_shared(module)
    return module


def _mark_shared(module: GPTModel) -> None:
    """Tell Megatron which weights tensor-parallel ranks share, as its layers do only where they initialise them: all
    the ranks' parts count in the gradient's norm. Experts go by groups of their own even where each rank has them all.
    """
    for part in module.modules():
        if (
            isinstance(part, ColumnParallelLinear | VocabParallelEmbedding | RowParallelLinear)
            and part.weight is not None
        ):
            axis = 1 if isinstance(part, RowParallelLinear) else 0
            if not getattr(part.weight, "tensor_model_parallel", False):
                set_tensor_model_parallel_attributes(part.weight, True, axis, 1)
            if getattr(part, "is_expert", False):
                part.weight.allreduce = False


def build_optimizer(
    chunks: Sequence[DistributedDataParallel], spec: OptimizerSpec, dtype: torch.dtype
) -> MegatronOptimizer:
    """Return Megatron's Adam over this rank's chunks of the model, with empty moments."""
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
        list(chunks),
        use_gloo_process_groups=False,
    )


def set_rates(optimizer: MegatronOptimizer, rate: float, weight_decay: float) -> None:
    """Have the next step taken with a learning rate.

    Megatron leaves what its groups of parameters are spared to its own scheduler: without it norms and biases, which
    have a factor of 0, would decay like matrices.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_mult"]
        group["weight_decay"] = weight_decay * group["wd_mult"]
