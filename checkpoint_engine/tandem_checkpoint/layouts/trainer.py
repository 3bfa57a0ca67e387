"""What each of Megatron's ranks holds, from a family's table and the rank's place in the split.

Sources of the rules: megatron/core/transformer/transformer_layer.py (get_transformer_layer_offset), attention.py (query
groups), mlp.py (gate and up), moe/experts.py, tensor_parallel/layers.py (rows and columns, vocabulary).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import (
    CUT,
    CUT_BY_LOCAL,
    Architecture,
    Axis,
    NamedRule,
    Names,
    Part,
    Rule,
    Split,
    Stage,
    holds,
    length_of,
)
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.strip import Block, LocalParameter, stacked

TIED_COPY = "output_layer.weight"
"""The last stage's own copy of tied embeddings, where the first stage is another one."""


def trainer_layout(policy: PolicyConfig, place: TrainerPlace, names: Names = Names.LOCAL) -> tuple[LocalParameter, ...]:
    """Return all parameters and buffers of a rank, in the order of a forward pass.

    Names carry the number of a layer or expert on the rank. Where a stage has several chunks of layers, each name has
    the chunk's number before it: `1.decoder.layers.0.mlp.linear_fc1.weight`.
    """
    num_chunks = place.split.virtual_pipeline
    return tuple(
        parameter for chunk in range(num_chunks) for parameter in _chunk(policy, place, names, chunk, num_chunks)
    )


def stage_layers(num_layers: int, split: TrainerSplit, stage: int, chunk: int = 0) -> range:
    """Return the layers of one chunk of a pipeline stage, counted over the whole model."""
    lengths = [length // split.virtual_pipeline for length in stage_lengths(num_layers, split)]
    first = chunk * sum(lengths) + sum(lengths[:stage])
    return range(first, first + lengths[stage])


def stage_lengths(num_layers: int, split: TrainerSplit) -> list[int]:
    """Return how many layers each pipeline stage has."""
    given = {0: split.first_stage_layers, split.pipeline - 1: split.last_stage_layers}
    given = {stage: length for stage, length in given.items() if length is not None and split.pipeline > 1}
    between = split.pipeline - len(given)
    rest = num_layers - sum(length or 0 for length in given.values())
    return [given.get(stage) or (rest // between if between else 0) for stage in range(split.pipeline)]


def padded_vocabulary(policy: PolicyConfig, split: TrainerSplit) -> int:
    """Return the rows of the trainer's embeddings: a multiple of the tensor-parallel ranks, and no more than needed."""
    return -(-policy.vocabulary // split.tensor) * split.tensor


def _chunk(
    policy: PolicyConfig, place: TrainerPlace, names: Names, chunk: int, num_chunks: int
) -> Iterator[LocalParameter]:
    """Yield the parameters of one chunk of a rank's layers, with what comes before and after all layers."""
    architecture, split = architecture_of(policy.architecture), place.split
    cutter = _Cutter(policy, architecture, place, names)
    prefix = f"{chunk}." if num_chunks > 1 else ""
    is_first = place.pipeline == 0 and chunk == 0
    is_last = place.pipeline == split.pipeline - 1 and chunk == num_chunks - 1
    if is_first:
        yield from cutter.model_parameters(Stage.FIRST, prefix)
    for number, layer in enumerate(stage_layers(policy.num_layers, split, place.pipeline, chunk)):
        for rule in architecture.layer_rules:
            if holds(rule, policy, layer):
                yield from cutter.layer_parameters(rule, layer, number, prefix)
    if is_last:
        yield from cutter.model_parameters(Stage.LAST, prefix)
        if policy.tied_embeddings and not is_first:
            yield from (replace(copy, name=prefix + TIED_COPY) for copy in cutter.model_parameters(Stage.FIRST, ""))


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts the parameters of one rank."""

    policy: PolicyConfig
    architecture: Architecture
    place: TrainerPlace
    names: Names

    def model_parameters(self, stage: Stage, prefix: str) -> Iterator[LocalParameter]:
        """Yield what stands before or behind all layers."""
        for rule in self.architecture.model_rules:
            if rule.stage is stage and holds(rule, self.policy, None):
                yield self._parameter(NamedRule(rule), prefix + rule.megatron)

    def layer_parameters(self, rule: Rule, layer: int, number: int, prefix: str) -> Iterator[LocalParameter]:
        """Yield a layer's parameters of one rule: one, or one for each of the rank's experts."""
        if not rule.is_expert:
            yield self._parameter(NamedRule(rule, layer), prefix + rule.megatron_name(self.names, number, None))
            return
        num_local = self.policy.num_experts // self.place.split.expert
        for local in range(num_local):
            named = NamedRule(rule, layer, self.place.expert * num_local + local)
            yield self._parameter(named, prefix + rule.megatron_name(self.names, number, local))

    def _parameter(self, named: NamedRule, name: str) -> LocalParameter:
        blocks = list(self._blocks(named))
        rows = sum(stop - start for part, start, stop in blocks)
        columns = tuple(range(*self._share(axis)) for axis in named.rule.parts[0].axes[1:])
        boxes = (
            Block(
                named.tensor_name(part),
                (start, *(line.start for line in columns)),
                (min(stop, length_of(part.rows, self.policy)), *(line.stop for line in columns)),
            )
            for part, start, stop in blocks
        )
        shape = (rows, *(len(line) for line in columns))
        return LocalParameter(name, shape, tuple(stacked(boxes)), named.rule.is_buffer, named.rule.dtype)

    def _blocks(self, named: NamedRule) -> Iterator[tuple[Part, int, int]]:
        """Yield the rows of tensors that lie one behind the other in the parameter; padding counts."""
        parts, policy = named.rule.parts, self.policy
        if named.split is not Split.QKV:
            yield from ((part, *self._share(part.rows)) for part in parts)
            return
        num_groups = policy.num_key_value_heads // self.place.split.tensor
        heads = (policy.num_heads // policy.num_key_value_heads, 1, 1)
        for group in range(self.place.tensor * num_groups, (self.place.tensor + 1) * num_groups):
            for part, num_heads in zip(parts, heads, strict=True):
                rows = num_heads * policy.head_dim
                yield part, group * rows, (group + 1) * rows

    def _share(self, axis: Axis) -> tuple[int, int]:
        """Return the first index of this rank's share of an axis, and one past its last."""
        rank, num_ranks = self._ranks(axis)
        if axis is Axis.VOCABULARY:
            length = padded_vocabulary(self.policy, self.place.split) // num_ranks
        else:
            length = length_of(axis, self.policy) // num_ranks
        return rank * length, (rank + 1) * length

    def _ranks(self, axis: Axis) -> tuple[int, int]:
        """Return this rank's number among those that share an axis, and how many they are."""
        if axis is Axis.EXPERT_INTERMEDIATE:
            return self.place.expert_tensor, self.place.split.expert_tensor
        if axis in CUT or (axis in CUT_BY_LOCAL and self.names is Names.LOCAL):
            return self.place.tensor, self.place.split.tensor
        return 0, 1
