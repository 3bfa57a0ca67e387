"""Ranks with memories that plans can be tried on, and placements by chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_checkpoint.reshard.batches import Batch, batches_of
from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.placement import Held, Placement, placement_of
from tandem_checkpoint.reshard.plan import Plan

Bytes = NDArray[np.uint8]
GAP_BYTES = 3
"""Left between some boxes of a rank, so that not all of them lie end to end."""


@dataclass(frozen=True, slots=True)
class Side:
    """What the ranks of one side hold."""

    pods: tuple[str, ...]
    held: tuple[Held, ...]

    @property
    def placement(self) -> Placement:
        return placement_of(self.pods, self.held)

    def memories(self, tensors: Mapping[str, Bytes]) -> list[Bytes]:
        """Return what each rank's memory holds: these tensors' bytes; without any, zeros."""
        ends = [
            max((end_of(one) for one in self.held if one.rank == rank), default=0) for rank in range(len(self.pods))
        ]
        memories = [np.zeros(end, np.uint8) for end in ends]
        for one in self.held if tensors else ():
            memories[one.rank][one.offset_bytes : end_of(one)] = cut_out(tensors[one.tensor], one)
        return memories


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides and the bytes of the tensors, [*shape, item bytes]."""

    have: Side
    want: Side
    tensors: dict[str, Bytes]


def end_of(one: Held) -> int:
    return (
        one.offset_bytes + prod(stop - start for start, stop in zip(one.start, one.stop, strict=True)) * one.item_bytes
    )


def cut_out(tensor: Bytes, one: Held) -> Bytes:
    """Return the bytes of a box, row-major."""
    return tensor[tuple(map(slice, one.start, one.stop))].ravel()


def carry_out(batches: Sequence[Sequence[Batch]], have: Sequence[Bytes], want: Sequence[Bytes]) -> None:
    """Do what the batches of all ranks say: first everything else, then what is shared."""
    everything = [(rank, batch) for rank, row in enumerate(batches) for batch in row]
    for rank, batch in sorted(everything, key=lambda item: item[1].kind is Kind.SHARED):
        source = (want if batch.kind is Kind.SHARED else have)[batch.source]
        for begin, into, size in zip(batch.source_offsets, batch.target_offsets, batch.num_bytes, strict=True):
            want[rank][into : into + size] = source[begin : begin + size]


def all_batches(plan: Plan, side: Side) -> list[list[Batch]]:
    copies = plan.copies()
    return [batches_of(copies, rank) for rank in range(len(side.pods))]


def network_bytes(copies: Copies, ranks: int, by: str = "sources") -> list[int]:
    """Return the bytes that each rank sends, or gets, over the network."""
    network = copies.take(copies.kinds == Kind.NETWORK)
    sums: list[int] = np.bincount(getattr(network, by), network.num_bytes, ranks).astype(int).tolist()
    return sums


def needed_bytes(pair: Pair) -> Counter[str]:
    """Return how many different bytes each pod wants that it does not have, item by item."""
    have, want = _items_of(pair.have), _items_of(pair.want)
    return Counter({pod: sum((items - have.get(pod, Counter())).values()) for pod, items in want.items()})


def _items_of(side: Side) -> dict[str, Counter[tuple[object, ...]]]:
    found: dict[str, Counter[tuple[object, ...]]] = {}
    for one in side.held:
        items = found.setdefault(side.pods[one.rank], Counter())
        for index in product(*(range(start, stop) for start, stop in zip(one.start, one.stop, strict=True))):
            items[one.tensor, index] = one.item_bytes
    return found


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Two sides of a few tensors with any shapes, cut anyhow, in pods of which some are hybrid."""
    shapes = draw(st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=4))
    item_bytes = [draw(st.sampled_from([1, 2, 4])) for _ in shapes]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    names = [f"layers.{number}.weight" for number in range(len(shapes))]
    tensors = {
        name: rng.integers(1, 256, (*shape, size), np.uint8)
        for name, shape, size in zip(names, shapes, item_bytes, strict=True)
    }
    have = draw(sides(tensors, "ab", complete=True))
    return Pair(have, draw(sides(tensors, "bc", complete=False)), tensors)


@st.composite
def sides(draw: st.DrawFn, tensors: Mapping[str, Bytes], pods: str, complete: bool) -> Side:
    """Ranks that hold boxes of tensors; every item is held somewhere if `complete`."""
    ranks = draw(st.lists(st.sampled_from(pods), min_size=1, max_size=5))
    offsets = [0] * len(ranks)
    held = []
    for name in draw(st.permutations(list(tensors))):
        *shape, item_bytes = tensors[name].shape
        for box in draw(grids(tuple(shape))):
            holders = st.lists(st.integers(0, len(ranks) - 1), min_size=complete, max_size=3, unique=True)
            for rank in draw(holders):
                start, stop = (tuple(corner) for corner in zip(*box, strict=True)) if box else ((), ())
                offsets[rank] += draw(st.sampled_from([0, 0, GAP_BYTES]))
                held.append(Held(name, tuple(shape), item_bytes, rank, start, stop, offsets[rank]))
                offsets[rank] = end_of(held[-1])
    return Side(tuple(ranks), tuple(held))


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """Boxes that cover a tensor, as a grid with its own lines on each axis; each is a start and a stop an axis."""
    lines = [sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=2))}) for length in shape]
    return list(product(*(list(pairwise(line)) for line in lines)))
