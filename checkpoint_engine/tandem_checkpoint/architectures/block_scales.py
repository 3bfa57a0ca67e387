"""Which of a policy's matrices are FP8 with one scale a block, and where the scales of a box lie.

A folder says it in config.json's `quantization_config`, as DeepSeek-V3's do. The scales of a matrix are a tensor of
their own, one number a block, so a box of whole blocks has a box of scales (arXiv:2412.19437, section 3.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem_checkpoint.architectures.features import UnsupportedFeature

FORMAT = "float8_e4m3fn"
SCALE_FORMAT = "float32"
SCALES = "_scale_inv"
"""What the name of a matrix's scales ends with: on disk, in a segment and in vLLM."""
SCALE_BLOCK = (128, 128)
POWERS_OF_TWO = "ue8m0"

Box = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class BlockScales:
    """How matrices are quantised."""

    block: tuple[int, int] = SCALE_BLOCK
    """Rows and columns that share a scale; blocks at the lower and right edge may be smaller."""
    skipped: frozenset[str] = frozenset()
    """Modules whose matrix is not, by name."""
    has_powers_of_two: bool = False
    """Whether scales are powers of two, which newer kernels want."""

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a matrix's scales."""
        return tuple(-(-length // side) for length, side in zip(shape, self.block, strict=True))

    def scales_of(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Box:
        """Return the box of the scales of a box. It begins at a block; it ends with one, or with the matrix."""
        if any(first % side for first, side in zip(start, self.block, strict=True)):
            raise ValueError(f"the box at {start} begins within a block of {self.block}")
        return tuple(first // side for first, side in zip(start, self.block, strict=True)), self.grid(stop)


def read_block_scales(raw: Mapping[str, Any]) -> BlockScales | None:
    """Return how matrices are quantised, None: not at all. Raises: UnsupportedFeature for any other quantization."""
    quantization = raw.get("quantization_config")
    if quantization is None:
        return None
    method, block = quantization.get("quant_method"), quantization.get("weight_block_size")
    if method != "fp8" or block != [*SCALE_BLOCK]:
        raise UnsupportedFeature(
            f"the weights are quantized ({method}, blocks {block}); use the unquantized policy, or FP8 in blocks of "
            f"{[*SCALE_BLOCK]}"
        )
    for field, found, wanted in (
        ("fmt", quantization.get("fmt", "e4m3"), "e4m3"),
        ("activation_scheme", quantization.get("activation_scheme"), "dynamic"),  # vLLM wants it to be said
    ):
        if found != wanted:
            raise UnsupportedFeature(f"quantization_config.{field} is {found}; use {wanted}")
    names = quantization.get("ignored_layers") or quantization.get("modules_to_not_convert") or ()
    return BlockScales(SCALE_BLOCK, frozenset(names), quantization.get("scale_fmt") == POWERS_OF_TWO)
