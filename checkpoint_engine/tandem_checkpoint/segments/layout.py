"""The layout of a segment: where each of the server's parameters lies, and which tensors it is made of.

Both sides work it out from the policy's configuration alone, so nothing needs to be agreed on at run time.
"""

from dataclasses import dataclass

from tandem_api.weights import TensorInfo
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import NamedRule, Rows

ALIGNMENT_BYTES = 4096
"""Parameters start on pages of their own."""
VOCABULARY_MULTIPLE = 64
"""vLLM pads embeddings to this many rows (vllm/model_executor/layers/vocab_parallel_embedding.py)."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor in its place: contiguous, row-major."""

    tensor: TensorInfo
    offset_bytes: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ServerParameter:
    """One parameter of the server: `shape` counts the padding rows, which stay zero."""

    name: str
    shape: tuple[int, ...]
    offset_bytes: int
    rule: NamedRule
    tensors: tuple[Placed, ...]


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
    """Return the layout of a server without tensor parallelism. `dtype`: float32 or bfloat16."""
    offset = 0
    parameters = []
    for rule in architecture_of(config.architecture).rules(config):
        parameter = _place(rule, config, dtype, offset)
        parameters.append(parameter)
        size = _size(parameter.shape, dtype)
        offset += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return SegmentLayout(dtype, tuple(parameters), offset)


def _place(rule: NamedRule, config: PolicyConfig, dtype: str, offset: int) -> ServerParameter:
    """Lay the tensors of one rule end to end along axis 0."""
    placed = []
    at = offset
    for name, shape in rule.tensors(config):
        placed.append(Placed(TensorInfo(name=name, dtype=dtype, shape=shape), at, _size(shape, dtype)))
        at += _size(shape, dtype)
    rows = sum(item.tensor.shape[0] for item in placed)
    if rule.rule.parts[0].rows is Rows.VOCABULARY:
        rows = -(-rows // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return ServerParameter(rule.server, (rows, *placed[0].tensor.shape[1:]), offset, rule, tuple(placed))


def _size(shape: tuple[int, ...], dtype: str) -> int:
    size = ITEM_BYTES[dtype]
    for length in shape:
        size *= length
    return size
