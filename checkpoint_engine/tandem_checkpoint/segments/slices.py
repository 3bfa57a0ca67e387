"""Which bytes of a segment each tensor-parallel rank of a server holds.

vLLM's sharding (vllm/model_executor/layers/linear.py): projections into heads, into the feed-forward and onto the
vocabulary are cut by rows, each tensor of a fused parameter for itself; projections back to the hidden size are cut by
columns; all else is whole on every rank. With more ranks than key/value heads, neighbours hold the same head.
"""

from dataclasses import dataclass
from math import prod

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Part, Rows
from tandem_checkpoint.segments.extents import Extent
from tandem_checkpoint.segments.layout import SegmentLayout, ServerParameter

_CUT = frozenset({Rows.VOCABULARY, Rows.INTERMEDIATE, Rows.QUERY, Rows.KEY_VALUE})


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a row-major tensor in the segment, and the row of the rank's parameter that its first row becomes."""

    offset_bytes: int
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: tuple[int, ...]
    stop: tuple[int, ...]
    into_row: int

    @property
    def num_rows(self) -> int:
        return self.stop[0] - self.start[0]

    @property
    def is_whole_rows(self) -> bool:
        """Whether no column is left out: then the box lies together in the segment."""
        return self.start[1:] == (0,) * len(self.shape[1:]) and self.stop[1:] == self.shape[1:]

    def extent(self, item_bytes: int) -> Extent:
        """Return where a box of whole rows lies."""
        row_bytes = prod(self.shape[1:]) * item_bytes
        return Extent(self.offset_bytes + self.start[0] * row_bytes, self.num_rows * row_bytes)


@dataclass(frozen=True, slots=True)
class RankParameter:
    """What one rank holds of one of the server's parameters."""

    name: str
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]
    """In the order of the parameter's rows, which they cover."""


def rank_parameters(
    layout: SegmentLayout, config: PolicyConfig, rank: int = 0, num_ranks: int = 1
) -> tuple[RankParameter, ...]:
    """Return what a rank holds of each parameter. Without tensor parallelism each is one whole box."""
    if num_ranks == 1:
        return tuple(_whole(parameter) for parameter in layout.parameters)
    return tuple(_rank_parameter(parameter, config, rank, num_ranks) for parameter in layout.parameters)


def _whole(parameter: ServerParameter) -> RankParameter:
    """Return the parameter with its tensors and its padding rows as they lie in the segment."""
    start = (0,) * len(parameter.shape)
    box = Box(parameter.offset_bytes, parameter.shape, start, parameter.shape, 0)
    return RankParameter(parameter.name, parameter.shape, (box,))


def _rank_parameter(parameter: ServerParameter, config: PolicyConfig, rank: int, num_ranks: int) -> RankParameter:
    parts = parameter.rule.rule.parts
    if parts[0].rows is Rows.VOCABULARY:  # its padding rows are cut like all others
        whole: tuple[tuple[int, tuple[int, ...]], ...] = ((parameter.offset_bytes, parameter.shape),)
    else:
        whole = tuple((placed.offset_bytes, placed.tensor.shape) for placed in parameter.tensors)
    boxes: list[Box] = []
    for part, (offset, shape) in zip(parts, whole, strict=True):
        into_row = sum(box.num_rows for box in boxes)
        start, stop = _cut(part, shape, config, rank, num_ranks)
        boxes.append(Box(offset, shape, start, stop, into_row))
    num_rows = sum(box.num_rows for box in boxes)
    columns = tuple(stop - start for start, stop in zip(boxes[0].start[1:], boxes[0].stop[1:], strict=True))
    return RankParameter(parameter.name, (num_rows, *columns), tuple(boxes))


def _cut(
    part: Part, shape: tuple[int, ...], config: PolicyConfig, rank: int, num_ranks: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the corners of a rank's box in one tensor."""
    start, stop = [0] * len(shape), list(shape)
    axis = 0 if part.rows in _CUT else 1
    if axis == 0 or part.columns in _CUT:
        num_shares = min(num_ranks, config.num_key_value_heads) if part.rows is Rows.KEY_VALUE else num_ranks
        length = shape[axis] // num_shares
        start[axis] = rank * num_shares // num_ranks * length
        stop[axis] = start[axis] + length
    return tuple(start), tuple(stop)
