"""Tensors that vLLM makes of a model's weights once they are loaded: with each generation they have to be made anew.

Of the supported families only latent attention has such: what takes queries into the latent space and values out of it
(MLAAttention.process_weights_after_loading in vllm/model_executor/layers/attention/mla_attention.py). Both are views of
one weight, so they follow what is copied into it; a weight that is pointed elsewhere takes them along. Of a weight in
FP8 they are the numbers, which are made anew and copied.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tandem_sidecars.block_scales import dequantise

LATENT_ATTENTION = "MLAAttention"
SCALED = "weight_scale_inv"
"""Where a projection has the scales of its weight."""
_DERIVED = ("W_UK_T", "W_UV")


@dataclass(frozen=True, slots=True)
class Derived:
    """One derived parameter, and what gives its value from the weights as they are now."""

    name: str
    parameter: torch.Tensor
    value: Callable[[], torch.Tensor]


def derived_parameters(model: nn.Module) -> tuple[Derived, ...]:
    """Return all parameters of a model that follow from others."""
    return tuple(
        item
        for name, module in model.named_modules()
        if type(module).__name__ == LATENT_ATTENTION
        for item in _of_latent_attention(name, module)
    )


def remake(items: Sequence[Derived], *, points: bool) -> None:
    """Bring derived parameters up to date. Args: points: they may lie in the weight's own memory from now on."""
    with torch.no_grad():
        for item in items:
            value = item.value()
            if _is_same(item.parameter, value):
                continue
            if points:
                item.parameter.data = value
            else:
                item.parameter.copy_(value)


def _of_latent_attention(name: str, attention: Any) -> Iterator[Derived]:
    for kind in _DERIVED:
        parameter = getattr(attention, kind, None)
        if parameter is not None:
            yield Derived(f"{name}.{kind}", parameter, partial(_latent, attention, kind))


def _latent(attention: Any, kind: str) -> torch.Tensor:
    """Return a part of kv_b_proj, whose rows are per head those of the key, then those of the value.

    W_UK_T: [heads, key, rank]; W_UV: [heads, rank, value].
    """
    weight = _plain(attention.kv_b_proj, getattr(attention, kind).dtype)
    key, heads = attention.qk_nope_head_dim, attention.num_heads
    by_head = weight.view(heads, key + attention.v_head_dim, attention.kv_lora_rank)
    part: torch.Tensor = by_head[:, :key] if kind == "W_UK_T" else by_head[:, key:].transpose(1, 2)
    return part


def _plain(projection: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a projection's weight itself, or its numbers where it is FP8 with block scales."""
    weight: torch.Tensor = projection.weight.data
    scales: torch.Tensor | None = getattr(projection, SCALED, None)
    return weight if scales is None else dequantise(weight, scales.data).to(dtype)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are the same memory."""
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one.shape == other.shape
