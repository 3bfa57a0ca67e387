"""Which rank of a pod writes what: each box of each tensor once, whoever holds it, and the work spread evenly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Names
from tandem_checkpoint.layouts.place import TrainerPlace
from tandem_checkpoint.layouts.strip import LocalParameter, Strip
from tandem_checkpoint.layouts.trainer import trainer_layout

Corners = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Region:
    """A box of a tensor that one parameter of a rank has all of."""

    tensor: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    parameter: str
    """The rank's name for it."""
    strips: tuple[Strip, ...]
    """Those that make up the box, by row."""

    @property
    def corners(self) -> Corners:
        return self.tensor, self.start, self.stop

    @property
    def size(self) -> int:
        """Number of elements."""
        return sum(strip.size for strip in self.strips)


def shares_of(
    policy: PolicyConfig, places: Sequence[TrainerPlace], names: Names = Names.LOCAL
) -> tuple[tuple[Region, ...], ...]:
    """Return what each of a pod's ranks writes, by local rank; together they write every element once.

    A box that several hold is written by the one that has least to write so far, the largest boxes first. Pure: every
    rank works it out for itself, and all come to the same.
    """

    @cache
    def regions(place: TrainerPlace) -> tuple[Region, ...]:
        return tuple(regions_of(trainer_layout(policy, place, names)))

    holders: dict[Corners, list[int]] = {}
    sizes: dict[Corners, int] = {}
    for rank, place in enumerate(places):
        for region in regions(place):
            sizes[region.corners] = region.size
            ranks = holders.setdefault(region.corners, [])
            if not ranks or ranks[-1] != rank:  # a rank may have a tied embedding twice
                ranks.append(rank)
    loads = [0] * len(places)
    writer: dict[Corners, int] = {}
    for corners in sorted(holders, key=lambda corners: (-sizes[corners], corners)):
        chosen = min(holders[corners], key=lambda rank: (loads[rank], rank))
        writer[corners] = chosen
        loads[chosen] += sizes[corners]
    return tuple(
        tuple({region.corners: region for region in regions(place) if writer[region.corners] == rank}.values())
        for rank, place in enumerate(places)
    )


def regions_of(parameters: Sequence[LocalParameter]) -> Iterator[Region]:
    """Yield the regions of some parameters: strips of one tensor whose rows follow each other are one."""
    for parameter in parameters:
        by_tensor: dict[str, list[Strip]] = {}
        for strip in parameter.strips:
            by_tensor.setdefault(strip.tensor, []).append(strip)
        for tensor, strips in by_tensor.items():
            group: list[Strip] = []
            for strip in sorted(strips, key=lambda strip: strip.tensor_start):
                if group and not _follows(strip, group[-1]):
                    yield _joined(tensor, parameter.name, group)
                    group = []
                group.append(strip)
            yield _joined(tensor, parameter.name, group)


def _follows(strip: Strip, before: Strip) -> bool:
    columns = strip.tensor_start[1:], strip.tensor_stop[1:]
    return strip.tensor_start[0] == before.tensor_stop[0] and columns == (
        before.tensor_start[1:],
        before.tensor_stop[1:],
    )


def _joined(tensor: str, parameter: str, strips: Sequence[Strip]) -> Region:
    return Region(tensor, strips[0].tensor_start, strips[-1].tensor_stop, parameter, tuple(strips))
