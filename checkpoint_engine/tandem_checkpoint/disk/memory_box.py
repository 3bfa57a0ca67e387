"""A box of a tensor together with the memory that it is read into or written from."""

from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBox:
    """The box `start[i] <= index < stop[i]` of a Hugging Face tensor, and its elements in memory, row-major.

    `memory` is an array of as many items as the box, whose items are as large as the tensor's; its dtype is otherwise
    not looked at (NumPy has no bfloat16: give `tensor.view(torch.int16).numpy()`). It may be a view with any strides,
    such as some rows or columns of a rank's parameter. Its shape may differ from the box's in axes of length 1.
    """

    tensor: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    memory: NDArray[Any]

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))


def refuse_misfit(box: MemoryBox, dtype: str, shape: tuple[int, ...], item_bytes: int) -> None:
    """Raise ValueError where a box is not in its tensor, or its memory is not the box's."""
    name = f"{box.tensor}[{box.start}:{box.stop}]"
    if not len(box.start) == len(box.stop) == len(shape) or any(
        not 0 <= start <= stop <= length for start, stop, length in zip(box.start, box.stop, shape, strict=True)
    ):
        raise ValueError(f"{name} is no box of a tensor of shape {shape}")
    if box.memory.dtype.itemsize != item_bytes or box.memory.size != prod(box.extents):
        raise ValueError(
            f"{name} wants {prod(box.extents)} items of {dtype}, its memory holds {box.memory.size} of "
            f"{box.memory.dtype.itemsize} bytes"
        )
