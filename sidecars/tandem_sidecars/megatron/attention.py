"""Megatron's attention module with the arithmetic of the server's kernel, for a float32 trainer on a CPU."""

import torch
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


def _by_head(tensor: torch.Tensor) -> torch.Tensor:
    """Return [N, S, D] of [S, B, heads, D]."""
    return tensor.permute(1, 2, 0, 3).flatten(0, 1).contiguous()
