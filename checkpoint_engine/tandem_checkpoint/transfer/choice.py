"""Whom each pod asks for each piece: the reshard planner's word, over pods that all have the same layout of segments.

A piece is a tensor to the planner, and is not cut, since its checksum is of all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from tandem_checkpoint.reshard.copies import Kind
from tandem_checkpoint.reshard.placement import Group, Placement
from tandem_checkpoint.reshard.plan import plan

WHOLE = 1 << 62
"""No piece is longer."""


@dataclass(frozen=True, slots=True)
class Need:
    """A piece that some pods have and others want."""

    num_bytes: int
    holders: tuple[str, ...]
    readers: tuple[str, ...]


def choose_senders(needs: Sequence[Need], reader: str) -> dict[int, str]:
    """Return whom `reader` asks for each piece that it wants, by the piece's place in `needs`.

    Each pod sends as many bytes as any other, as far as copies allow, when all readers ask as their own plans say:
    all of them come to the same plan. Errors: ReshardError where a piece is wanted that nobody has.
    """
    pods = sorted({pod for need in needs for pod in (*need.holders, *need.readers)})
    have, want = (_placement(needs, pods, side) for side in (lambda need: need.holders, lambda need: need.readers))
    copies = plan(have, want, WHOLE).copies([reader])
    starts = np.array([0, *accumulate(need.num_bytes for need in needs)])
    chosen = {}
    for kind, source, first, num_bytes in zip(
        copies.kinds, copies.sources, copies.target_offsets, copies.num_bytes, strict=True
    ):
        assert kind == Kind.NETWORK, "no pod wants what it has"
        for at in range(*np.searchsorted(starts, [first, first + num_bytes])):
            chosen[at] = pods[source]
    return chosen


def _placement(needs: Sequence[Need], pods: Sequence[str], side: Callable[[Need], tuple[str, ...]]) -> Placement:
    """Return which pods have, or want, which pieces. Pods take the place of ranks; pieces lie one behind the other."""
    numbers = {pod: number for number, pod in enumerate(pods)}
    starts = [0, *accumulate(need.num_bytes for need in needs)]
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for at, need in enumerate(needs):
        if side(need):
            alike.setdefault((need.num_bytes, tuple(sorted(side(need)))), []).append(at)
    return Placement(
        tuple(pods),
        tuple(
            Group(
                tensors=tuple(f"{at:012}" for at in places),
                shape=(num_bytes,),
                item_bytes=1,
                ranks=np.array([numbers[pod] for pod in who], np.int64),
                starts=np.zeros((len(who), 1), np.int64),
                stops=np.full((len(who), 1), num_bytes, np.int64),
                offsets=np.repeat(np.array([starts[at] for at in places], np.int64)[:, None], len(who), axis=1),
            )
            for (num_bytes, who), places in alike.items()
        ),
    )
