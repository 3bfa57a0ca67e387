"""How ranks share a model, and which of them one is, in Megatron's words."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainerSplit:
    """How a trainer's ranks share the model; what remains of the ranks is data parallel."""

    tensor: int = 1
    pipeline: int = 1
    virtual_pipeline: int = 1
    """Chunks of layers on each stage."""
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    first_stage_layers: int | None = None
    """Layers of the first stage where stages are uneven (Megatron's num_layers_in_first_pipeline_stage)."""
    last_stage_layers: int | None = None
    """Layers of the last stage, likewise."""


@dataclass(frozen=True, slots=True)
class TrainerPlace:
    """One rank's coordinates in a split, each counted from 0."""

    split: TrainerSplit = TrainerSplit()
    tensor: int = 0
    pipeline: int = 0
    expert: int = 0
    expert_tensor: int = 0


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """One rank of a server: vLLM's sizes, and the rank's coordinates."""

    num_tensor: int = 1
    tensor: int = 0
    has_expert_parallel: bool = False
    """Whether vLLM gives whole experts to ranks (--enable-expert-parallel) instead of cutting each."""
    num_pipeline: int = 1
    pipeline: int = 0
    """Stage of layers, counted from 0."""
