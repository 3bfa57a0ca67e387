"""Megatron's attention modules for packed rows: its own take none without Transformer Engine.

Axis letters: see packed.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType

from tandem_sidecars.megatron.packed import attend_by_flash, attend_in_bands, has_flash, sdpa
from tandem_sidecars.megatron.server_order import attend


@dataclass
class Boundaries(PackedSeqParams):  # type: ignore[misc]
    """Where the samples of a packed row lie. Megatron's own fields are in host memory: it only cuts tables of positions
    by them, and would wait for the device in every layer.

    lengths: positions of each sample. starts: int32 [B + 1] on the device, the first position of each, and their sum.
    """

    lengths: tuple[int, ...] = ()
    starts: torch.Tensor | None = None


def boundaries_of(lengths: Sequence[int], device: torch.device) -> Boundaries:
    """Return the boundaries of a row of samples of some lengths."""
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return Boundaries(
        qkv_format="thd",
        cu_seqlens_q=starts,
        cu_seqlens_kv=starts,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
        lengths=tuple(lengths),
        starts=starts.to(device),
    )


class PackedAttention(DotProductAttention):  # type: ignore[misc]
    """Causal attention within each sample of a packed row; no dropout, no bias."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Return [T, H * E] for query [T, H, D], key [T, G, D] and value [T, G, E].

        Raises ValueError for a bias or a row that is not packed.
        """
        if attention_bias is not None or not isinstance(packed_seq_params, Boundaries):
            raise ValueError("attention takes packed rows, and no bias")
        return self.attend(query, key, value, packed_seq_params).flatten(1)

    def attend(
        self, query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGE: torch.Tensor, row: Boundaries
    ) -> torch.Tensor:
        """Return the context, [T, H, E]."""
        if has_flash(query_THD) and row.starts is not None:
            return attend_by_flash(query_THD, key_TGD, value_TGE, row.starts, row.max_seqlen_q, self.softmax_scale)
        return attend_in_bands(query_THD, key_TGD, value_TGE, row.lengths, sdpa(self.softmax_scale))


class ServerOrderAttention(PackedAttention):
    """The same with the arithmetic of the server's CPU kernel."""

    def attend(
        self, query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGE: torch.Tensor, row: Boundaries
    ) -> torch.Tensor:
        return attend_in_bands(query_THD, key_TGD, value_TGE, row.lengths, self._attend)

    def _attend(self, query_BHSD: torch.Tensor, key_BGSD: torch.Tensor, value_BGSE: torch.Tensor) -> torch.Tensor:
        num_heads, length = query_BHSD.shape[1:3]
        repeats = num_heads // key_BGSD.shape[1]
        later_SS = torch.ones(length, length, dtype=torch.bool, device=query_BHSD.device).triu(1)
        context_NSE = attend(
            query_BHSD.flatten(0, 1),
            key_BGSD.repeat_interleave(repeats, dim=1).flatten(0, 1),
            value_BGSE.repeat_interleave(repeats, dim=1).flatten(0, 1),
            later_SS,
            self.softmax_scale,
        )
        return context_NSE.view(-1, num_heads, *context_NSE.shape[1:])


class LatentAttention(PackedAttention):
    """Attention for multi-head latent attention, whose queries and keys are wider than its values."""

    def __init__(self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kwargs: Any) -> None:
        """Take Megatron's arguments. The widths are in its configuration too: kv_channels is that of a value."""
        super().__init__(*args, **kwargs)
        self._first_rotary = self.config.qk_head_dim

    def attend(
        self, query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGE: torch.Tensor, row: Boundaries
    ) -> torch.Tensor:
        """Return the context, [T, H, E].

        The rotary part of a key is one for all heads. Megatron's layer without Transformer Engine gathers it from the
        tensor ranks but leaves its gradient to each rank's own heads; here the ranks' gradients are added up.
        """
        rotary: torch.Tensor = _SummedGradient.apply(  # type: ignore[no-untyped-call]
            key_TGD[..., self._first_rotary :], self.tp_group
        )
        whole_TGD = torch.cat((key_TGD[..., : self._first_rotary], rotary), dim=-1)
        return super().attend(query_THD, whole_TGD, value_TGE, row)


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
