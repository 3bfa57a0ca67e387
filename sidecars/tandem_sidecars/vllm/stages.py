"""Stages of a server on a CPU: the memory that a later one takes the output of the one before it in."""

from typing import Any, Protocol

import torch
from torch import nn
from vllm.distributed.parallel_state import get_pp_group


class Runner(Protocol):
    """What is needed of vLLM's runner of a model."""

    model: nn.Module
    intermediate_tensors: Any
    max_num_tokens: int
    dtype: torch.dtype
    device: torch.device


def take_from_stage_before(runner: Runner) -> None:
    """Make the memory, which vLLM makes when it runs the model before it serves: on a CPU it does not, uncompiled."""
    if runner.device.type == "cpu" and not get_pp_group().is_first_rank and runner.intermediate_tensors is None:
        make: Any = runner.model.make_empty_intermediate_tensors
        runner.intermediate_tensors = make(batch_size=runner.max_num_tokens, dtype=runner.dtype, device=runner.device)
