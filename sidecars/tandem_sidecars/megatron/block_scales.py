"""Matrices in FP8 (e4m3) with one scale a block of 128 by 128, as DeepSeek-V3's folders hold them.

A number is the FP8 number times the scale of its block; on disk the scales of `x.weight` are `x.weight_scale_inv`
(arXiv:2412.19437, section 3.3). Blocks at the right and lower edge may be smaller.
"""

import torch

BLOCK = 128
"""Rows, and columns, of a block."""
FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SCALES = "_scale_inv"
"""What the name of a matrix's scales ends with."""


def quantise(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix [R, C] in FP8 and its scales, float32 [R / 128, C / 128], rounded up.

    A block's scale makes its largest number the format's largest; a block of zeros has scale 1. Raises ValueError for
    a matrix with numbers that are not finite.
    """
    if not bool(matrix.isfinite().all()):
        raise ValueError("the matrix holds numbers that are not finite")
    numbers = matrix.float()
    rows, columns = numbers.shape
    padded = torch.nn.functional.pad(numbers.abs(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    largest = padded.view(-(-rows // BLOCK), BLOCK, -(-columns // BLOCK), BLOCK).amax(dim=(1, 3))
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    # A scale is rounded: without the clamp the largest number could round beyond the format, which is NaN there
    return (numbers / spread(scales, (0, 0), (rows, columns))).clamp(-LARGEST, LARGEST).to(FORMAT), scales


def dequantise(
    matrix: torch.Tensor, scales: torch.Tensor, start: tuple[int, ...] = (0, 0), dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return a matrix's numbers, or those of a box of it, in a number format.

    Args: matrix: the box in FP8, [R, C]. scales: those of the whole matrix. start: the box's first row and column.
    """
    return (matrix.float() * spread(scales, start, tuple(matrix.shape))).to(dtype)


def spread(scales: torch.Tensor, start: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """Return the scale of every number of a box, float32 of its shape."""
    rows, columns = (
        torch.arange(first, first + length, device=scales.device) // BLOCK
        for first, length in zip(start, shape, strict=True)
    )
    return scales[rows][:, columns]
