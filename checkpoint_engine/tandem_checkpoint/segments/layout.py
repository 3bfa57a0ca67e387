"""The layout of a segment: where each of the server's parameters lies, and which tensors it is made of.

Both sides work it out from the policy's configuration alone, so nothing needs to be agreed on at run time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from math import prod

from tandem_api.weights import Piece, TensorInfo
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.block_scales import FORMAT, SCALE_FORMAT, SCALES, BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Axis, NamedRule
from tandem_checkpoint.layouts.server import padded_vocabulary

ALIGNMENT_BYTES = 4096
"""Parameters start on pages of their own."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, FORMAT: 1}


@dataclass(frozen=True, slots=True)
class BoxRuns:
    """Runs of bytes in a segment, in the words of tandem_api.weights.Piece."""

    offset_bytes: int
    num_bytes: int
    num_runs: int
    stride_bytes: int


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor in its place: contiguous, row-major."""

    tensor: TensorInfo
    offset_bytes: int
    num_bytes: int

    def runs_of(self, start: tuple[int, ...], stop: tuple[int, ...]) -> "BoxRuns":
        """Return where a box of the tensor lies. A tensor has one axis or two."""
        item_bytes = ITEM_BYTES[self.tensor.dtype]
        row_bytes = prod(self.tensor.shape[1:]) * item_bytes
        num_rows, offset = stop[0] - start[0], self.offset_bytes + start[0] * row_bytes
        if len(start) > 1:
            offset += start[1] * item_bytes
            run_bytes = (stop[1] - start[1]) * item_bytes
            if run_bytes < row_bytes and num_rows > 1:
                return BoxRuns(offset, num_rows * run_bytes, num_rows, row_bytes)
            row_bytes = run_bytes
        return BoxRuns(offset, num_rows * row_bytes, 1, 0)

    def piece_of(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Piece:
        """Return what is told of a box of the tensor; its checksum is still 0."""
        runs = self.runs_of(start, stop)
        return Piece(
            tensor=self.tensor.name,
            start=start,
            stop=stop,
            offset_bytes=runs.offset_bytes,
            num_bytes=runs.num_bytes,
            num_runs=runs.num_runs,
            stride_bytes=runs.stride_bytes,
            xxh3=0,
        )


@dataclass(frozen=True, slots=True)
class ServerParameter:
    """One parameter of the server: `shape` counts the padding rows, which stay zero. Experts have an axis before."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset_bytes: int
    rules: tuple[NamedRule, ...]
    tensors: tuple[Placed, ...]
    """Those of the rules, one behind the other."""
    is_scales: bool = False
    """Whether it holds the scales of the parameter of these rules, which is the one before it."""


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """A whole segment."""

    dtype: str
    parameters: tuple[ServerParameter, ...]
    num_bytes: int
    block_scales: BlockScales | None = None
    """How matrices are quantised, if some are."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(placed.tensor for parameter in self.parameters for placed in parameter.tensors)


def segment_layout(config: PolicyConfig, dtype: str) -> SegmentLayout:
    """Return the layout of a server without tensor parallelism. `dtype`: float32 or bfloat16, the policy's."""
    offset = 0
    parameters: list[ServerParameter] = []
    for name, group in groupby(architecture_of(config.architecture).rules(config), lambda rule: rule.server):
        for parameter in _parameters(name, tuple(group), config, dtype, offset):
            parameters.append(parameter)
            size = _size(parameter.shape, parameter.dtype)
            offset = parameter.offset_bytes + _whole_pages(size)
    return SegmentLayout(dtype, tuple(parameters), offset, config.block_scales)


def _parameters(
    name: str, rules: Sequence[NamedRule], config: PolicyConfig, policy_dtype: str, offset: int
) -> Iterator[ServerParameter]:
    """Yield the parameter of some rules, and its scales behind it where it is quantised."""
    scales = config.block_scales if rules[0].is_quantised(config) else None
    dtype = FORMAT if scales else rules[0].rule.dtype or policy_dtype
    tensors = [
        TensorInfo(name=tensor, dtype=dtype, shape=shape) for rule in rules for tensor, shape in rule.tensors(config)
    ]
    shape = _shape(rules, tensors, config)
    yield ServerParameter(name, shape, dtype, offset, tuple(rules), _placed(tensors, offset))
    if scales:
        offset += _whole_pages(_size(shape, dtype))
        tensors = [
            TensorInfo(name=info.name + SCALES, dtype=SCALE_FORMAT, shape=scales.grid(info.shape)) for info in tensors
        ]
        shape = _shape(rules, tensors, config)
        yield ServerParameter(name + SCALES, shape, SCALE_FORMAT, offset, tuple(rules), _placed(tensors, offset), True)


def _placed(tensors: Sequence[TensorInfo], offset: int) -> tuple[Placed, ...]:
    """Lay tensors end to end."""
    sizes = [_size(info.shape, info.dtype) for info in tensors]
    return tuple(
        Placed(info, at, size)
        for info, at, size in zip(tensors, accumulate(sizes, initial=offset), sizes, strict=False)
    )


def _shape(rules: Sequence[NamedRule], tensors: Sequence[TensorInfo], config: PolicyConfig) -> tuple[int, ...]:
    """Return the shape of the parameter that tensors make up along axis 0."""
    rows, columns = sum(info.shape[0] for info in tensors), tensors[0].shape[1:]
    if rules[0].rule.is_expert:
        return (len(rules), rows // len(rules), *columns)
    if rules[0].rule.parts[0].rows is Axis.VOCABULARY:
        return (padded_vocabulary(config), *columns)
    return (rows, *columns)


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _size(shape: tuple[int, ...], dtype: str) -> int:
    return ITEM_BYTES[dtype] * prod(shape)
