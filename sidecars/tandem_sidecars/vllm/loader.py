"""vLLM's loader for weight segments, `--load-format tandem_segment`: it loads nothing.

The engine is built before there are weights. They come by vLLM's weight transfer (see transfer.py), and nothing is
generated until then. On a GPU the engine runs the model while it is built, to measure it and to capture graphs; its
weights are zero then.
"""

import logging

import torch
from torch import nn
from vllm.config import ModelConfig, ParallelConfig, VllmConfig
from vllm.distributed.parallel_state import get_pp_group, get_tensor_model_parallel_rank
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.layouts.server import local_experts
from tandem_sidecars.vllm.census import Tensors, kept_beside, misfit

logger = logging.getLogger(__name__)

LOAD_FORMAT = "tandem_segment"
MISFIT = "tandem_misfit"
"""Attribute of a model: why no generation can be put into it, or None. An error here would not say why it came."""


@register_model_loader(LOAD_FORMAT)
class SegmentLoader(BaseModelLoader):  # type: ignore[misc]
    """Builds a model whose weights come later."""

    built_with: Tensors
    """What the model kept beside parameters and buffers before weights counted as loaded."""

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing to download."""

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """Build the model, and note on it whether generations can be put into it."""
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        place = place_of(vllm_config.parallel_config)
        held = local_experts(model_config.get_num_experts(), place) if place.has_expert_parallel else None
        setattr(model, MISFIT, _refusal(model, misfit(model, self.built_with, held)))
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Clear a GPU's memory, where nobody knows what it holds; leave a CPU's, whose pages are not even there yet."""
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.device.type != "cpu" and parameter.dim():  # a number by itself is a scale of the cache
                    parameter.zero_()
        self.built_with = kept_beside(model)


def _refusal(model: nn.Module, reason: str | None) -> str | None:
    """Return the reason on a CPU. What kernels for GPUs keep is not known well enough to refuse them: they are warned
    of, and the trainer compares each batch's log-probabilities with the server's.
    """
    if reason is None or next(model.parameters()).device.type == "cpu":
        return reason
    logger.warning("%s; if the trainer finds other log-probabilities than this server, that is why", reason)
    return None


def place_of(parallel: ParallelConfig) -> ServerPlace:
    """Return which rank of the server this worker is."""
    return ServerPlace(
        parallel.tensor_parallel_size,
        get_tensor_model_parallel_rank(),
        parallel.enable_expert_parallel,
        parallel.pipeline_parallel_size,
        get_pp_group().rank_in_group,
    )
