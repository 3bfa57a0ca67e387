"""Causal attention within each sample of a packed row.

Two ways: the varlen kernel of FlashAttention where a GPU has it for the number format; else samples of like length
side by side, filled up to the longest of them, and any kernel for rectangles. Filling on the right changes nothing
before it.

Axis letters: T positions of a row, B samples, S positions of a sample, H query heads, G key/value heads, D width of a
query and a key, E width of a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch.nn.attention.varlen import varlen_attn

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Causal attention of samples of one length: query [B, H, S, D], key [B, G, S, D], value [B, G, S, E], to context
[B, H, S, E]."""
LIKE_SHARE, LIKE_POSITIONS = 0.75, 16
"""Samples go side by side where the shortest has at least this share of the longest's positions, less these: for short
ones a call costs more than the positions that it fills up."""
FLASH_DTYPES = frozenset({torch.bfloat16, torch.float16})
FLASH_WIDTHS = range(8, 257, 8)
"""Head dimensions that FlashAttention takes."""


@dataclass(frozen=True, slots=True)
class Band:
    """Samples of a row that go side by side.

    shape: samples, and positions of the longest. places: int64 [samples * positions], the position in the row that each
    is taken from; a shorter sample's last one fills it up. real: int64, which of them are no filling.
    """

    shape: tuple[int, int]
    places: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The bands of a row, and for each of its positions the place in what they make one behind the other, int64 [T].

    All in host memory.
    """

    bands: tuple[Band, ...]
    back: torch.Tensor


def attend_in_bands(
    query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGE: torch.Tensor, lengths: Sequence[int], kernel: Kernel
) -> torch.Tensor:
    """Return the context, [T, H, E], of samples that lie end to end; `lengths` add up to T."""
    arrangement, device = arrange(tuple(lengths)), query_THD.device
    found = []
    for band in arrangement.bands:
        places = band.places.to(device)
        side_by_side = (
            part.index_select(0, places).view(*band.shape, *part.shape[1:]).transpose(1, 2)
            for part in (query_THD, key_TGD, value_TGE)
        )
        context_BSHE = kernel(*side_by_side).transpose(1, 2)
        found.append(context_BSHE.flatten(0, 1).index_select(0, band.real.to(device)))
    return torch.cat(found).index_select(0, arrangement.back.to(device))


@lru_cache(maxsize=16)
def arrange(lengths: tuple[int, ...]) -> Arrangement:
    """Return how a row is cut into bands: all layers of all passes over it ask."""
    starts = [0, *accumulate(lengths)]
    found, order = [], []
    for members in bands(lengths):
        longest = lengths[members[0]]
        own_B1 = torch.tensor([[lengths[index]] for index in members])
        first_B1 = torch.tensor([[starts[index]] for index in members])
        offsets_S = torch.arange(longest)
        places_BS = first_B1 + offsets_S.minimum(own_B1 - 1)
        real = (offsets_S < own_B1).flatten().nonzero()[:, 0]
        found.append(Band((len(members), longest), places_BS.flatten(), real))
        order.append(places_BS.flatten()[real])
    return Arrangement(tuple(found), torch.argsort(torch.cat(order)))


def bands(lengths: Sequence[int]) -> list[list[int]]:
    """Return the numbers of the samples that go side by side, the longest of each band first."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if found and lengths[index] >= LIKE_SHARE * lengths[found[-1][0]] - LIKE_POSITIONS:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def sdpa(scale: float) -> Kernel:
    """Return torch's own kernel, whichever it takes for device and number format."""

    def kernel(query_BHSD: torch.Tensor, key_BGSD: torch.Tensor, value_BGSE: torch.Tensor) -> torch.Tensor:
        is_grouped = query_BHSD.shape[1] != key_BGSD.shape[1]
        return F.scaled_dot_product_attention(
            query_BHSD, key_BGSD, value_BGSE, is_causal=True, scale=scale, enable_gqa=is_grouped
        )

    return kernel


def has_flash(query_THD: torch.Tensor) -> bool:
    """Tell whether the varlen kernel takes such queries."""
    return query_THD.is_cuda and query_THD.dtype in FLASH_DTYPES and query_THD.shape[-1] in FLASH_WIDTHS


def attend_by_flash(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGE: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """Return the context, [T, H, E], by the varlen kernel of FlashAttention, for CUDA.

    Args: starts: int32 [B + 1] on the device, the first position of each sample, and T.
    """
    width = value_TGE.shape[-1]
    wide_TGD = F.pad(value_TGE, (0, query_THD.shape[-1] - width))  # the kernel takes one width for all three
    context_THD = varlen_attn(
        query_THD.contiguous(),
        key_TGD.contiguous(),
        wide_TGD.contiguous(),
        starts,
        starts,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=query_THD.shape[1] != key_TGD.shape[1],
    )
    assert isinstance(context_THD, torch.Tensor)
    return context_THD[..., :width]
