"""Megatron's attention modules, where its own do not do: the server's arithmetic, and heads of two widths."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType

from tandem_sidecars.megatron.server_order import attend


class ServerOrderAttention(DotProductAttention):  # type: ignore[misc]
    """Megatron's attention module with the arithmetic of the server's CPU kernel; no dropout, no packing."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: object | None = None,
    ) -> torch.Tensor:
        """Return [S, B, heads * D] for query [S, B, heads, D], key and value [T, B, groups, D].

        attention_mask: bool, [1, 1, S, T], true where a query may not look. Raises ValueError for a bias or packed
        sequences.
        """
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("attention on a CPU takes no bias and no packed sequences")
        repeats = query.shape[2] // key.shape[2]
        query_NSD, key_NTD, value_NTD = (
            _by_head(query),
            _by_head(key.repeat_interleave(repeats, dim=2)),
            _by_head(value.repeat_interleave(repeats, dim=2)),
        )
        context_NSD = attend(query_NSD, key_NTD, value_NTD, attention_mask[0, 0], self.softmax_scale)
        num_queries, num_samples = query.shape[:2]
        context = context_NSD.view(num_samples, -1, num_queries, context_NSD.shape[-1])
        return context.permute(2, 0, 1, 3).reshape(num_queries, num_samples, -1)


class LatentAttention(DotProductAttention):  # type: ignore[misc]
    """Megatron's attention for multi-head latent attention, whose queries and keys are wider than its values."""

    def __init__(self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kwargs: Any) -> None:
        """Take Megatron's arguments. The widths are in its configuration too: kv_channels is that of a value."""
        super().__init__(*args, **kwargs)
        self._first_rotary = self.config.qk_head_dim

    def forward(self, query: torch.Tensor, key: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """Return [S, B, heads * v_channels] for query and key [S, B, heads, k_channels], value likewise.

        The rotary part of a key is one for all heads. Megatron's layer without Transformer Engine gathers it from the
        tensor ranks but leaves its gradient to each rank's own heads; here the ranks' gradients are added up.
        """
        rotary: torch.Tensor = _SummedGradient.apply(  # type: ignore[no-untyped-call]
            key[..., self._first_rotary :], self.tp_group
        )
        context: torch.Tensor = super().forward(
            query, torch.cat((key[..., : self._first_rotary], rotary), dim=-1), *rest, **named
        )
        return context


class _SummedGradient(torch.autograd.Function):
    """Hands a tensor on; adds its gradient up over ranks.

    Megatron's own (copy_to_tensor_model_parallel_region) loses the sum where the gradient's memory has gaps.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=ctx.group)
        return summed, None


def _by_head(tensor: torch.Tensor) -> torch.Tensor:
    """Return [N, S, D] of [S, B, heads, D]."""
    return tensor.permute(1, 2, 0, 3).flatten(0, 1).contiguous()
