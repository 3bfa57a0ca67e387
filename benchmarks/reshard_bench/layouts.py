"""What each rank holds of a model, for a trainer and for a server alike.

Ranks count tensor parallelism fastest, then data, then pipeline, as Megatron does; a server's replicas are its data
parallelism. Experts have their own grid over the ranks of a stage: expert parallelism fastest, then replicas. Stages
take layers in order, the first ones one more where they do not divide. Every rank lays out what it holds in the
model's order.

Legend: T tensors of a group, B boxes of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
from benchmarks.reshard_bench.shapes import Cut, Part, Shape

from tandem_checkpoint.reshard.placement import Group, Ints, Placement


@dataclass(frozen=True, slots=True)
class Parallel:
    """Sizes of one side."""

    num_ranks: int
    tensor: int
    pipeline: int
    expert: int
    pod_ranks: int = 8

    @property
    def stage_ranks(self) -> int:
        return self.num_ranks // self.pipeline

    def layers(self, num_layers: int, stage: int) -> range:
        """Return the layers of a stage."""
        bounds = [
            number * (num_layers // self.pipeline) + min(number, num_layers % self.pipeline)
            for number in (stage, stage + 1)
        ]
        return range(*bounds)


@dataclass(slots=True)
class Rows:
    """The tensors of a group so far, and where they begin."""

    part: Part
    """The first of them."""
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


def lay_out(shape: Shape, parallel: Parallel, prefix: str) -> Placement:
    """Return where every rank holds what; pods are named by the prefix and a number."""
    groups = [group for stage in range(parallel.pipeline) for group in _stage(shape, parallel, stage)]
    return Placement(
        tuple(f"{prefix}-{rank // parallel.pod_ranks}" for rank in range(parallel.num_ranks)), tuple(groups)
    )


def model_bytes(shape: Shape) -> int:
    """Return the bytes of all tensors of a model."""
    whole = lay_out(shape, Parallel(1, 1, 1, 1), "whole")
    return sum(len(group.tensors) * prod(group.shape) * group.item_bytes for group in whole.groups)


def _stage(shape: Shape, parallel: Parallel, stage: int) -> Iterator[Group]:
    """Yield the groups of a stage. Its ranks lay out the same sizes in the same order, so offsets hold for all."""
    dense: dict[tuple[object, ...], Rows] = {}
    experts: dict[tuple[object, ...], Rows] = {}
    num_local = shape.num_experts // parallel.expert
    at = 0
    for part, expert in _parts(shape, parallel, stage, num_local):
        table = dense if expert is None else experts
        rows = table.setdefault((part.shape, part.item_bytes, part.cut), Rows(part))
        rows.names.append(part.name if expert is None else part.name.replace("{expert}", f"{{{expert}}}"))
        rows.offsets.append(at)
        at += _rank_bytes(part, parallel, shape)
    first_rank = stage * parallel.stage_ranks
    for rows in dense.values():
        yield _dense_group(rows, parallel, shape, first_rank)
    for rows in experts.values():
        for number in range(parallel.expert):
            ranks = np.arange(first_rank + number, first_rank + parallel.stage_ranks, parallel.expert)
            yield _expert_group(rows, ranks, [str(number * num_local + local) for local in range(num_local)])


def _parts(shape: Shape, parallel: Parallel, stage: int, num_local: int) -> Iterator[tuple[Part, int | None]]:
    """Yield what a rank of a stage holds, in order; with an expert's part its number among the rank's experts."""
    layers = parallel.layers(shape.num_layers, stage)
    yield from ((part, None) for part in (shape.first() if stage == 0 else ()))
    for layer in layers:
        yield from ((part, None) for part in shape.layer(layer))
        for parameter in shape.experts(layer):
            yield from ((part, expert) for expert in range(num_local) for part in parameter)
    yield from ((part, None) for part in (shape.last() if stage == parallel.pipeline - 1 else ()))


def _expert_group(rows: Rows, ranks_B: Ints, names: list[str]) -> Group:
    """Return a group of whole tensors, the rank's own experts numbered as the model does."""
    boxes = (len(ranks_B), len(rows.part.shape))
    return Group(
        tuple(name.format(*names) for name in rows.names),
        rows.part.shape,
        rows.part.item_bytes,
        ranks_B,
        np.zeros(boxes, np.int64),
        np.broadcast_to(np.array(rows.part.shape, np.int64), boxes),
        np.broadcast_to(np.array(rows.offsets, np.int64)[:, None], (len(rows.offsets), len(ranks_B))),
    )


def _dense_group(rows: Rows, parallel: Parallel, shape: Shape, first_rank: int) -> Group:
    part, num_axes = rows.part, len(rows.part.shape)
    ranks_B = np.arange(first_rank, first_rank + parallel.stage_ranks)
    starts = np.zeros((len(ranks_B), num_axes), np.int64)
    stops = np.broadcast_to(np.array(part.shape, np.int64), starts.shape).copy()
    if part.cut is not Cut.WHOLE:
        axis = 1 if part.cut is Cut.COLUMNS else 0
        shares = _num_shares(part, parallel, shape)
        length = part.shape[axis] // shares
        starts[:, axis] = ranks_B % parallel.tensor * shares // parallel.tensor * length
        stops[:, axis] = starts[:, axis] + length
    offsets = np.broadcast_to(np.array(rows.offsets, np.int64)[:, None], (len(rows.offsets), len(ranks_B)))
    return Group(tuple(rows.names), part.shape, part.item_bytes, ranks_B, starts, stops, offsets)


def _rank_bytes(part: Part, parallel: Parallel, shape: Shape) -> int:
    return prod(part.shape) * part.item_bytes // _num_shares(part, parallel, shape)


def _num_shares(part: Part, parallel: Parallel, shape: Shape) -> int:
    if part.cut is Cut.WHOLE:
        return 1
    return min(parallel.tensor, shape.num_key_value_heads) if part.cut is Cut.KEY_VALUE else parallel.tensor
