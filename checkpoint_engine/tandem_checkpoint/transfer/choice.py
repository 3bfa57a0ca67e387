"""Whom each pod asks for each piece: the reshard planner's word, over pods that all have the same layout of segments.

A piece is a tensor to the planner, and is not cut, since its checksum is of all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tandem_checkpoint.reshard.copies import Kind
from tandem_checkpoint.reshard.placement import Group, Ints, Placement
from tandem_checkpoint.reshard.plan import plan

WHOLE = 1 << 62
"""No piece is longer."""


@dataclass(frozen=True, slots=True)
class Need:
    """Pieces that the same pods have, and the same pods want."""

    sizes: Mapping[int, int]
    """Bytes of each, by its number; no other need has that number."""
    holders: tuple[str, ...]
    readers: tuple[str, ...]


def choose_senders(needs: Sequence[Need], reader: str) -> list[dict[int, str]]:
    """Return whom `reader` asks for each piece that it wants: by need, and by the number of the piece.

    Each pod sends as many bytes as any other, as far as copies allow, when all readers ask as their own plans say:
    all of them come to the same plan. Errors: ReshardError where a piece is wanted that nobody has.
    """
    pods = sorted({pod for need in needs for pod in (*need.holders, *need.readers)})
    numbers = np.array(sorted(number for need in needs for number in need.sizes), np.int64)
    sizes = {number: size for need in needs for number, size in need.sizes.items()}
    starts = np.cumsum([0, *(sizes[number] for number in numbers.tolist())])
    have = _placement(needs, pods, numbers, starts, [need.holders for need in needs])
    want = _placement(needs, pods, numbers, starts, [need.readers for need in needs])
    copies = plan(have, want, WHOLE).copies([reader])
    assert (copies.kinds == Kind.NETWORK).all(), "no pod wants what it has"
    chosen: dict[int, str] = {}
    ends = copies.target_offsets + copies.num_bytes
    for source, first, stop in zip(copies.sources.tolist(), copies.target_offsets, ends, strict=True):
        within = slice(*np.searchsorted(starts, [first, stop]))
        chosen.update(dict.fromkeys(numbers[within].tolist(), pods[source]))
    return [{number: chosen[number] for number in need.sizes if number in chosen} for need in needs]


def _placement(
    needs: Sequence[Need], pods: Sequence[str], numbers: Ints, starts: Ints, sides: Sequence[tuple[str, ...]]
) -> Placement:
    """Return which pods have, or want, which pieces. Pods take the place of ranks; pieces lie one behind the other.

    Args: numbers: of all pieces, rising; starts: where each begins; sides: the pods of each need.
    """
    ranks = {pod: rank for rank, pod in enumerate(pods)}
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for need, side in zip(needs, sides, strict=True):
        who = tuple(sorted(side))
        for number, num_bytes in need.sizes.items() if who else ():
            alike.setdefault((num_bytes, who), []).append(number)
    return Placement(
        tuple(pods),
        tuple(
            Group(
                tensors=tuple(f"{number:012}" for number in those),
                shape=(num_bytes,),
                item_bytes=1,
                ranks=np.array([ranks[pod] for pod in who], np.int64),
                starts=np.zeros((len(who), 1), np.int64),
                stops=np.full((len(who), 1), num_bytes, np.int64),
                offsets=np.repeat(starts[np.searchsorted(numbers, those)][:, None], len(who), axis=1),
            )
            for (num_bytes, who), those in alike.items()
        ),
    )
