"""The layout of a segment: where each of the server's parameters lies, and which tensors it is made of.

Both sides work it out from the policy's configuration alone, so nothing needs to be agreed on at run time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from tandem_api.weights import TensorInfo
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Axis, NamedRule
from tandem_checkpoint.layouts.server import padded_vocabulary

ALIGNMENT_BYTES = 4096
"""Parameters start on pages of their own."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


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


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """A whole segment."""

    dtype: str
    parameters: tuple[ServerParameter, ...]
    num_bytes: int

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(placed.tensor for parameter in self.parameters for placed in parameter.tensors)


def segment_layout(config: PolicyConfig, dtype: str) -> SegmentLayout:
    """Return the layout of a server without tensor parallelism. `dtype`: float32 or bfloat16, the policy's."""
    offset = 0
    parameters = []
    for name, rules in groupby(architecture_of(config.architecture).rules(config), lambda rule: rule.server):
        parameter = _place(name, tuple(rules), config, dtype, offset)
        parameters.append(parameter)
        size = _size(parameter.shape, parameter.dtype)
        offset += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return SegmentLayout(dtype, tuple(parameters), offset)


def _place(
    name: str, rules: Sequence[NamedRule], config: PolicyConfig, policy_dtype: str, offset: int
) -> ServerParameter:
    """Lay the tensors of the rules of one parameter end to end along axis 0."""
    dtype = rules[0].rule.dtype or policy_dtype
    placed = []
    at = offset
    for rule in rules:
        for tensor, shape in rule.tensors(config):
            placed.append(Placed(TensorInfo(name=tensor, dtype=dtype, shape=shape), at, _size(shape, dtype)))
            at += _size(shape, dtype)
    rows, columns = sum(item.tensor.shape[0] for item in placed), placed[0].tensor.shape[1:]
    if rules[0].rule.is_expert:
        shape = (len(rules), rows // len(rules), *columns)
    elif rules[0].rule.parts[0].rows is Axis.VOCABULARY:
        shape = (padded_vocabulary(config), *columns)
    else:
        shape = (rows, *columns)
    return ServerParameter(name, shape, dtype, offset, tuple(rules), tuple(placed))


def _size(shape: tuple[int, ...], dtype: str) -> int:
    return ITEM_BYTES[dtype] * prod(shape)
