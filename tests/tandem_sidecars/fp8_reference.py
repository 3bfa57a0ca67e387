"""FP8 with block scales once more, by NumPy alone: number by number from a list of all that the format has."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _value(code: int) -> float:
    """Return a number of e4m3: four bits of exponent, biased by 7, three of mantissa (arXiv:2209.05433)."""
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


VALUES = np.array([_value(code) for code in range(127)])
"""All that are not negative, by their code; 127 is none."""
LARGEST = np.float32(448)
MIDDLE = 464.0
"""Between the largest and what would come next, which is no number."""


def encode(numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the code of the nearest number, of two as near the even one."""
    sizes = np.minimum(np.abs(numbers), VALUES[-1])
    above = np.searchsorted(VALUES, sizes).clip(1, 126)
    below = above - 1
    up, down = VALUES[above] - sizes, sizes - VALUES[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    codes: NDArray[np.uint8] = (code + 128 * np.signbit(numbers)).astype(np.uint8)
    return codes


def decode(codes: NDArray[np.uint8]) -> Floats:
    numbers: Floats = (VALUES[codes & 127] * np.where(codes & 128, -1.0, 1.0)).astype(np.float32)
    return numbers


def scale(block: Floats, has_powers_of_two: bool) -> np.float32:
    """Return the scale of one block."""
    largest = np.abs(block).max()
    if largest == 0:
        return np.float32(1)
    if has_powers_of_two:
        exponent = int(np.log2(largest)) - 12
        while float(largest) / 2.0**exponent > MIDDLE:
            exponent += 1
        return np.float32(2.0**exponent)
    return np.float32(np.float32(np.float32(largest / LARGEST) * LARGEST) / LARGEST)


def quantised(
    matrix: Floats, block: tuple[int, int], has_powers_of_two: bool = False
) -> tuple[NDArray[np.uint8], Floats]:
    """Return a matrix's codes and its scales, block after block."""
    rows, columns = (range(0, length, side) for length, side in zip(matrix.shape, block, strict=True))
    codes, scales = np.empty(matrix.shape, np.uint8), np.empty((len(rows), len(columns)), np.float32)
    for number, row in enumerate(rows):
        for other, column in enumerate(columns):
            part = matrix[row : row + block[0], column : column + block[1]]
            scales[number, other] = scale(part, has_powers_of_two)
            codes[row : row + block[0], column : column + block[1]] = encode(
                (part / scales[number, other]).astype(np.float64)
            )
    return codes, scales
