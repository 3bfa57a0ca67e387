"""FP8 with block scales: against arithmetic number by number."""

import pytest
import torch

from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_sidecars.block_scales import FORMAT, LARGEST, dequantise, quantise

BLOCK = 128
POWERS = BlockScales((1, 2), has_powers_of_two=True)
SHAPES = [(128, 128), (256, 384), (130, 128), (1, 300), (200, 5)]


def matrix_of(shape: tuple[int, int]) -> torch.Tensor:
    """Return numbers whose blocks are of very different sizes, with a block of zeros first where there are several."""
    generator = torch.Generator().manual_seed(5)
    rows, columns = shape
    matrix = torch.randn(shape, generator=generator)
    matrix *= 10.0 ** (torch.arange(rows)[:, None] // BLOCK - 3.0 * (torch.arange(columns) // BLOCK))
    if columns > BLOCK:
        matrix[:BLOCK, :BLOCK] = 0.0
    return matrix


def slow_scale(matrix: torch.Tensor, row: int, column: int) -> float:
    """Return the scale of the block that a number lies in."""
    top, left = row // BLOCK * BLOCK, column // BLOCK * BLOCK
    block = matrix[top : top + BLOCK, left : left + BLOCK]
    largest = max(abs(number) for line in block.tolist() for number in line)
    return float(torch.tensor(largest) / LARGEST * LARGEST / LARGEST) if largest else 1.0


def slow_numbers(quantised: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return every number times its block's scale, one after another."""
    return torch.tensor(
        [
            [float(number) * float(scales[row // BLOCK, column // BLOCK]) for column, number in enumerate(line)]
            for row, line in enumerate(quantised.float().tolist())
        ]
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scales_are_of_each_blocks_largest_number(shape: tuple[int, int]) -> None:
    matrix = matrix_of(shape)

    _, scales = quantise(matrix)

    rows, columns = (range(0, length, BLOCK) for length in shape)
    assert scales.tolist() == [[slow_scale(matrix, row, column) for column in columns] for row in rows]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_number_is_its_fp8_number_times_the_scale_of_its_block(shape: tuple[int, int]) -> None:
    quantised, scales = quantise(matrix_of(shape))

    assert quantised.dtype is FORMAT
    assert torch.equal(dequantise(quantised, scales), slow_numbers(quantised, scales))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_number_comes_back_to_three_bits(shape: tuple[int, int]) -> None:
    matrix = matrix_of(shape)

    quantised, scales = quantise(matrix)

    # Half of the last of three bits; below 2⁻⁶ of the format's unit steps no longer shrink with the number
    allowed = matrix.abs() / 16 + torch.full_like(matrix, 2.0**-10) * dequantise(torch.ones_like(quantised), scales)
    assert bool(((dequantise(quantised, scales) - matrix).abs() <= allowed * 1.001).all())


@pytest.mark.parametrize("how", [BlockScales((1, 2)), BlockScales((1, 2), has_powers_of_two=True)], ids=str)
def test_what_was_quantised_is_quantised_to_the_same(how: BlockScales) -> None:
    generator = torch.Generator().manual_seed(1)
    quantised, scales = quantise(torch.randn(4096, 20, generator=generator), how)

    again, same_scales = quantise(dequantise(quantised, scales, (0, 0), how.block), how)

    assert torch.equal(again.view(torch.uint8), quantised.view(torch.uint8))
    assert torch.equal(same_scales, scales)


@pytest.mark.parametrize(("largest", "scale"), [(448.0, 1.0), (464.0, 1.0), (464.1, 2.0), (225.0, 0.5), (0.0, 1.0)])
def test_powers_of_two_are_the_smallest_that_hold_a_block(largest: float, scale: float) -> None:
    quantised, scales = quantise(torch.tensor([[largest, -largest]]), POWERS)

    assert scales.tolist() == [[scale]]
    assert bool(quantised.float().isfinite().all())


@pytest.mark.parametrize(("rows", "columns"), [((0, 10), (0, 5)), ((100, 200), (130, 260)), ((128, 129), (127, 384))])
def test_a_box_takes_the_scales_of_its_place(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    quantised, scales = quantise(matrix_of((256, 384)))
    box = (slice(*rows), slice(*columns))

    part = dequantise(quantised[box], scales, start=(rows[0], columns[0]))

    assert torch.equal(part, dequantise(quantised, scales)[box])


def test_a_matrix_with_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.full((2, 2), float("nan")))
