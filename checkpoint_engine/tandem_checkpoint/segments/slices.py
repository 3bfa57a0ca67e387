"""Which bytes of a segment each tensor-parallel rank of a server holds: its strips, in the places of their tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Axis
from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.layouts.scales import scales_of
from tandem_checkpoint.layouts.server import is_on_stage, server_parameter
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.segments.extents import Extent
from tandem_checkpoint.segments.layout import ITEM_BYTES, SegmentLayout, ServerParameter


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a row-major tensor in the segment, and where it goes to in the rank's parameter."""

    offset_bytes: int
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: tuple[int, ...]
    stop: tuple[int, ...]
    into: tuple[int, ...]
    """First index in the parameter. Where that has more axes than the box (experts), one index on the leading ones."""

    @property
    def num_rows(self) -> int:
        return self.stop[0] - self.start[0]

    @property
    def into_row(self) -> int:
        """Row of the parameter that the first row becomes."""
        return self.into[len(self.into) - len(self.shape)]

    @property
    def in_parameter(self) -> tuple[int | slice, ...]:
        """The box as an index of the parameter: rows, and the expert before them if there is one."""
        leading = self.into[: len(self.into) - len(self.shape)]
        return (*leading, slice(self.into_row, self.into_row + self.num_rows))

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
    dtype: str


def rank_parameters(
    layout: SegmentLayout,
    config: PolicyConfig,
    rank: int = 0,
    num_ranks: int = 1,
    *,
    has_expert_parallel: bool = False,
    stage: int = 0,
    num_stages: int = 1,
) -> tuple[RankParameter, ...]:
    """Return what a rank holds of each parameter of its stage. Without tensor parallelism each is one whole box."""
    place = ServerPlace(num_ranks, rank, has_expert_parallel, num_stages, stage)
    return tuple(
        _rank_parameter(parameter, config, place)
        for parameter in layout.parameters
        if is_on_stage(parameter.rules[0], config, place)
    )


def _rank_parameter(parameter: ServerParameter, config: PolicyConfig, place: ServerPlace) -> RankParameter:
    local = server_parameter(parameter.name, parameter.rules, config, place)
    if parameter.is_scales and config.block_scales is not None:
        local = scales_of(local, config.block_scales)
    if parameter.rules[0].rule.parts[0].rows is Axis.VOCABULARY:  # its padding rows are cut like all others
        boxes: tuple[Box, ...] = (_rows(parameter, local, place.tensor * local.shape[0]),)
    else:
        boxes = tuple(_boxes(parameter, local))
        item_bytes = ITEM_BYTES[parameter.dtype]
        if len(boxes) == 1 or _lie_together(boxes, item_bytes):
            first = boxes[0].extent(item_bytes).offset_bytes - parameter.offset_bytes
            if boxes[0].is_whole_rows:
                boxes = (_rows(parameter, local, first // (prod(parameter.shape[1:]) * item_bytes)),)
    return RankParameter(parameter.name, local.shape, boxes, parameter.dtype)


def _rows(parameter: ServerParameter, local: LocalParameter, row: int) -> Box:
    """Return rows of a parameter as the segment holds it, as many as a rank has."""
    start = (row, *(0,) * len(parameter.shape[1:]))
    stop = (row + local.shape[0], *parameter.shape[1:])
    return Box(parameter.offset_bytes, parameter.shape, start, stop, (0,) * len(parameter.shape))


def _boxes(parameter: ServerParameter, local: LocalParameter) -> Iterator[Box]:
    """Yield the rank's box in each tensor."""
    placed = {item.tensor.name: item for item in parameter.tensors}
    for strip in local.strips:
        tensor = placed[strip.tensor]
        yield Box(tensor.offset_bytes, tensor.tensor.shape, strip.tensor_start, strip.tensor_stop, strip.start)


def _lie_together(boxes: tuple[Box, ...], item_bytes: int) -> bool:
    """Tell whether boxes follow each other in the segment without a gap."""
    if not all(box.is_whole_rows for box in boxes):
        return False
    extents = [box.extent(item_bytes) for box in boxes]
    ends = [extent.offset_bytes + extent.num_bytes for extent in extents]
    return all(end == extent.offset_bytes for end, extent in zip(ends[:-1], extents[1:], strict=True))
