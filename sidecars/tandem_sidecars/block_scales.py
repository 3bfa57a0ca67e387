"""Matrices in FP8 (e4m3) with one scale a block, as DeepSeek-V3's folders hold them: quantised as they are handed over.

A number is the FP8 number times the scale of its block (arXiv:2412.19437, section 3.3). Trainers hold plain numbers;
what is quantised and how large blocks are, the policy's configuration says (`architectures/block_scales.py`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import pad

from tandem_checkpoint.architectures import block_scales as names
from tandem_checkpoint.architectures.block_scales import SCALES, BlockScales
from tandem_checkpoint.layouts.shares import Region
from tandem_checkpoint.layouts.strip import Strip

FORMAT: torch.dtype = getattr(torch, names.FORMAT)
LARGEST = torch.finfo(FORMAT).max
ROUNDED_TO_LARGEST = 464.0
"""The largest number that rounds to it: half a step beyond."""
HALF = 0.5
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Blocks of numbers that would need a smaller one, below 1e-35, are taken for zeros or lose bits."""
WHOLE_BLOCKS = BlockScales()


def quantise(matrix: torch.Tensor, how: BlockScales = WHOLE_BLOCKS) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix [R, C] in FP8 and its scales, float32 [R / block, C / block], rounded up.

    Rows of whole blocks give what they would give within a larger matrix. Raises: as `scales_of`.
    """
    scales = scales_of(matrix, how)
    # A scale is rounded: without the clamp the largest number could round beyond the format, which is NaN there
    scaled = matrix.float() / spread(scales, (0, 0), tuple(matrix.shape), how.block)
    return scaled.clamp_(-LARGEST, LARGEST).to(FORMAT), scales


def scales_of(matrix: torch.Tensor, how: BlockScales = WHOLE_BLOCKS) -> torch.Tensor:
    """Return the scales of a matrix's blocks. A block of zeros has scale 1.

    A block's scale makes its largest number the format's largest, so that what was quantised once is quantised to the
    same again: for that a scale is rounded as the product with that number is. Or it is the smallest power of two with
    which no number rounds beyond the format.
    Raises ValueError for a matrix with numbers that are not finite.
    """
    (rows, columns), (block_rows, block_columns) = matrix.shape, how.block
    padded = pad(matrix.float().abs(), (0, -columns % block_columns, 0, -rows % block_rows))
    blocks = padded.view(-(-rows // block_rows), block_rows, -(-columns // block_columns), block_columns)
    largest = blocks.amax(3).amax(1)
    if not bool(largest.isfinite().all()):
        raise ValueError("the matrix holds numbers that are not finite")
    if how.has_powers_of_two:
        mantissas, exponents = torch.frexp(largest / ROUNDED_TO_LARGEST)
        scales = torch.ldexp(torch.ones_like(largest), exponents - (mantissas == HALF).int())
    else:
        scales = largest / LARGEST * LARGEST / LARGEST
    return torch.where(largest > 0, scales.clamp_min(SMALLEST_SCALE), torch.ones_like(scales))


def dequantise(
    matrix: torch.Tensor,
    scales: torch.Tensor,
    start: tuple[int, ...] = (0, 0),
    block: tuple[int, int] = WHOLE_BLOCKS.block,
) -> torch.Tensor:
    """Return a matrix's numbers, or those of a box of it, in float32.

    Args: matrix: the box in FP8, [R, C]. scales: those of the whole matrix. start: the box's first row and column.
    """
    return matrix.float() * spread(scales, start, tuple(matrix.shape), block)


def spread(
    scales: torch.Tensor, start: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] = WHOLE_BLOCKS.block
) -> torch.Tensor:
    """Return the scale of every number of a box, float32 of its shape."""
    for axis, (first, length, side) in enumerate(zip(start, shape, block, strict=True)):
        begin = first // side
        touched = scales.narrow(axis, begin, -(-(first + length) // side) - begin)
        scales = touched.repeat_interleave(side, axis).narrow(axis, first % side, length)
    return scales


def converted_rows(
    region: Region, parameter: torch.Tensor, first: int, last: int, how: BlockScales, most_bytes: int
) -> Iterator[torch.Tensor]:
    """Yield some rows of a quantised region in order, each part row-major in its format: FP8, or float32 of scales.

    Args: region: of a matrix, or of its scales (`layouts/scales.py`), whose rows are counted here. Rows of a matrix
        begin at a block and end with one, or with the matrix. most_bytes: of float32 at once, unless a block has more.
    """
    gives_scales, side = region.tensor.endswith(SCALES), how.block[0]
    end = region.strips[-1].tensor_stop[0]
    begin, stop = (first * side, min(last * side, end)) if gives_scales else (first, last)
    num_columns = region.strips[0].extents[1]
    step = max(1, most_bytes // (4 * num_columns * side)) * side
    for row in range(begin, stop, step):
        matrix = rows_of(parameter, region.strips, row, min(row + step, stop))
        yield scales_of(matrix, how) if gives_scales else quantise(matrix, how)[0]


def rows_of(parameter: torch.Tensor, strips: Sequence[Strip], first: int, last: int) -> torch.Tensor:
    """Return rows of a tensor that strips, one below the other, have in a parameter: a view where it is one strip."""
    parts = []
    for strip in strips:
        top, bottom = max(first, strip.tensor_start[0]), min(last, strip.tensor_stop[0])
        if top < bottom:
            parts.append(parameter[strip.in_parameter][top - strip.tensor_start[0] : bottom - strip.tensor_start[0]])
    return parts[0] if len(parts) == 1 else torch.cat(parts)
