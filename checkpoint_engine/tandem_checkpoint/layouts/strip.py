"""What one rank holds, strip by strip: this box of this parameter is that box of that Hugging Face tensor.

To import is to copy each tensor's box into the parameter's, to export the other way. Nothing else needs to know of
query groups, gate and up, experts or padding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from tandem_checkpoint.reshard.placement import Held

Box = tuple[slice, ...]
FORCED_BYTES = {"float32": 4, "float8_e4m3fn": 1}
"""Sizes of the number formats that do not follow the policy's."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A box that a parameter and a tensor have in common."""

    tensor: str
    """Hugging Face on-disk name."""
    tensor_start: tuple[int, ...]
    """First index of the box in the tensor on each axis."""
    tensor_stop: tuple[int, ...]
    """One past the last."""
    start: tuple[int, ...]
    """First index of the same box in the parameter. Where that has more axes than the tensor (experts), the box has
    one index on each of the leading ones."""

    @property
    def extents(self) -> tuple[int, ...]:
        """Lengths of the box on the tensor's axes."""
        return tuple(stop - start for start, stop in zip(self.tensor_start, self.tensor_stop, strict=True))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.extents)

    @property
    def in_tensor(self) -> Box:
        """The box as an index of the tensor."""
        return tuple(slice(start, stop) for start, stop in zip(self.tensor_start, self.tensor_stop, strict=True))

    @property
    def in_parameter(self) -> tuple[int | slice, ...]:
        """The box as an index of the parameter; what it picks has the tensor's axes."""
        leading = len(self.start) - len(self.tensor_start)
        extents = zip(self.start[leading:], self.extents, strict=True)
        return (*self.start[:leading], *(slice(start, start + length) for start, length in extents))


@dataclass(frozen=True, slots=True)
class LocalParameter:
    """One parameter of a rank."""

    name: str
    shape: tuple[int, ...]
    strips: tuple[Strip, ...]
    """They cover it, but for padding rows, which are zero."""
    is_buffer: bool = False
    dtype: str | None = None
    """The number format, where it does not follow the policy's."""


@dataclass(frozen=True, slots=True)
class Block:
    """A box of a tensor that takes its place behind others in a parameter; it is empty where all is padding."""

    tensor: str
    start: tuple[int, ...]
    stop: tuple[int, ...]


def stacked(blocks: Iterable[Block], leading: tuple[int, ...] = ()) -> Iterator[Strip]:
    """Yield the strips of blocks that lie one behind the other along the rows of a parameter.

    Args: leading: index on the axes that the parameter has before its rows.
    """
    row = 0
    for block in blocks:
        num_rows = block.stop[0] - block.start[0]
        if num_rows > 0:
            start = (*leading, row, *(0,) * (len(block.start) - 1))
            yield Strip(block.tensor, block.start, block.stop, start)
            row += num_rows


def held_of(
    rank: int, parameters: Iterable[LocalParameter], shapes: dict[str, tuple[int, ...]], item_bytes: int
) -> Iterator[Held]:
    """Yield what a rank holds as the planner takes it: rows that lie together, in memory that has the parameters in
    this order, one behind the other.

    Args: shapes: of each whole tensor, by name; item_bytes: of the policy's number format. A strip that skips columns
    of its parameter counts row by row.
    """
    offset = 0
    for parameter in parameters:
        size = item_bytes if parameter.dtype is None else FORCED_BYTES[parameter.dtype]
        for strip in parameter.strips:
            yield from _rows(rank, strip, parameter.shape, shapes[strip.tensor], size, offset)
        offset += prod(parameter.shape) * size


def _rows(
    rank: int, strip: Strip, shape: Sequence[int], whole: tuple[int, ...], item_bytes: int, offset: int
) -> Iterator[Held]:
    """Yield the parts of a strip that lie together: all of it, unless it skips columns."""
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = offset + sum(index * stride for index, stride in zip(strip.start, strides, strict=True)) * item_bytes
    start, stop = strip.tensor_start, strip.tensor_stop
    if strip.extents[1:] == tuple(shape[len(shape) - len(whole) + 1 :]):
        yield Held(strip.tensor, whole, item_bytes, rank, start, stop, first)
        return
    for row in range(start[0], stop[0]):
        at = first + (row - start[0]) * strides[-len(whole)] * item_bytes
        yield Held(strip.tensor, whole, item_bytes, rank, (row, *start[1:]), (row + 1, *stop[1:]), at)
