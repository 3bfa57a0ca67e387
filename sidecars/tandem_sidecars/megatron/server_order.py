"""Attention for a float32 trainer on a CPU that rounds as the server's CPU kernel does.

Megatron's own attention sums in another order than the server's, and two steep layers make a difference of 2e-5 in a
log-probability out of the last bits; nearly all else agrees bit by bit on a CPU. This attention takes the order of
vLLM's vector kernel: queries are scaled first, sums go element by element, and the sum of the weights divides the
result, not each weight (as in FlashAttention, arXiv:2205.14135, algorithm 1). With AVX2 the results are equal bit by
bit. With AVX-512 the kernel fuses multiplication and addition, as is done here, and takes a polynomial for exp, which
is not. The gradient is that of any attention.

Axis letters: N batch times heads, S queries, T keys, D head dimension.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

LANES = 16
"""Float32 numbers that the server's kernel adds side by side."""
FUSED = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether the server's kernel rounds once for a multiplication and an addition; its AVX2 build rounds twice."""
PIECE_SCORES = 1 << 18
"""Scores that are computed at once: so many stay in a core's cache while one product after another is added to them."""


def attend(
    query_NSD: torch.Tensor, key_NTD: torch.Tensor, value_NTD: torch.Tensor, later_ST: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return softmax(scale q kᵀ) v, [N, S, D]. later_ST: bool, true where a query may not look."""
    context_NSD: torch.Tensor = _Attend.apply(query_NSD, key_NTD, value_NTD, later_ST, scale)  # type: ignore[no-untyped-call]
    return context_NSD


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_NSD: torch.Tensor,
        key_NTD: torch.Tensor,
        value_NTD: torch.Tensor,
        later_ST: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        context_NSD = query_NSD.new_empty(*query_NSD.shape[:2], value_NTD.shape[2])
        probability_NST = query_NSD.new_zeros(*query_NSD.shape[:2], key_NTD.shape[1])
        for rows, queries in pieces(*probability_NST.shape):
            hidden_ST = later_ST[queries]
            keys = slice(int((~hidden_ST).any(0).nonzero().max()) + 1)  # what is after them adds nothing
            scores_NST = scores(query_NSD[rows, queries], key_NTD[rows, keys], scale)
            weights_NST = exponentials(scores_NST.masked_fill_(hidden_ST[:, keys], float("-inf")))
            inverse_NS1 = 1.0 / lane_sum(weights_NST)
            context_NSD[rows, queries] = weighted_sum(weights_NST, value_NTD[rows, keys]) * inverse_NS1
            probability_NST[rows, queries, keys] = weights_NST * inverse_NS1
        ctx.save_for_backward(query_NSD, key_NTD, value_NTD, probability_NST)
        ctx.scale = scale
        return context_NSD

    @staticmethod
    def backward(ctx: Any, grad_NSD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_NSD, key_NTD, value_NTD, probability_NST = ctx.saved_tensors
        scale = ctx.scale
        grad_probability_NST = grad_NSD @ value_NTD.transpose(1, 2)
        mean_NS1 = (grad_probability_NST * probability_NST).sum(-1, keepdim=True)
        grad_scores_NST = probability_NST * (grad_probability_NST - mean_NS1) * scale
        return (
            grad_scores_NST @ key_NTD,
            grad_scores_NST.transpose(1, 2) @ query_NSD,
            probability_NST.transpose(1, 2) @ grad_NSD,
            None,
            None,
        )


def pieces(num_rows: int, num_queries: int, num_keys: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and queries that together are all: no more scores at once than PIECE_SCORES, but for one query."""
    rows = max(1, PIECE_SCORES // max(1, num_queries * num_keys))
    queries = max(1, min(num_queries, PIECE_SCORES // max(1, num_keys)))
    for row in range(0, num_rows, rows):
        for query in range(0, num_queries, queries):
            yield slice(row, row + rows), slice(query, query + queries)


def scores(query_NSD: torch.Tensor, key_NTD: torch.Tensor, scale: float) -> torch.Tensor:
    """Return scale * q kᵀ, [N, S, T]: scaled queries, products added one dimension after another."""
    scaled_NSD = query_NSD * scale
    total_NST = query_NSD.new_zeros(*query_NSD.shape[:2], key_NTD.shape[1])
    for dimension in range(query_NSD.shape[2]):
        add_product(total_NST, scaled_NSD[:, :, dimension, None], key_NTD[:, None, :, dimension])
    return total_NST


def exponentials(scores_NST: torch.Tensor) -> torch.Tensor:
    """Return exp(score - largest score of its query), rounded once: torch's own exp may be off by the last bit."""
    shifted_NST = scores_NST - scores_NST.amax(-1, keepdim=True)
    return shifted_NST.double().exp_().to(scores_NST.dtype)


def lane_sum(weights_NST: torch.Tensor) -> torch.Tensor:
    """Return the sum over keys, [N, S, 1]: sixteen lanes, then lane after lane in two halves."""
    rows, queries, num_keys = weights_NST.shape
    padded = F.pad(weights_NST, (0, -num_keys % LANES)).view(rows, queries, -1, LANES)
    lanes = padded[:, :, 0].clone()
    for chunk in range(1, padded.shape[2]):
        lanes += padded[:, :, chunk]
    halves = lanes.view(rows, queries, 2, LANES // 2)
    total: torch.Tensor = halves[..., 0].clone()
    for lane in range(1, LANES // 2):
        total += halves[..., lane]
    return (total[..., 0] + total[..., 1]).unsqueeze(-1)


def weighted_sum(weights_NST: torch.Tensor, value_NTD: torch.Tensor) -> torch.Tensor:
    """Return the sum of weight times value, [N, S, D], key after key."""
    total_NSD = value_NTD.new_zeros(*weights_NST.shape[:2], value_NTD.shape[2])
    for position in range(weights_NST.shape[2]):
        add_product(total_NSD, weights_NST[:, :, position, None], value_NTD[:, None, position])
    return total_NSD


def add_product(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, fused: bool = FUSED) -> None:
    """Add one * other to the total in place, rounded once or twice."""
    if not fused:
        total += one * other
    elif _rounds_once():
        total.addcmul_(one, other)
    else:  # the product of two float32 is exact in float64
        total.copy_(total.double() + one.double() * other.double())


@cache
def _rounds_once() -> bool:
    """Return whether torch's own addcmul rounds once, as its AVX-512 build does: it takes an eighth of the time."""
    ends = torch.full((2, 37), 1 + 2.0**-12)  # 37: whole vectors and what is left after them
    total = torch.full_like(ends, -1.0 - 2.0**-11)
    total.addcmul_(ends[:, :1], ends)
    return bool((total == 2.0**-24).all())
