"""What this pod's segments hold for others: the generations that its trainer has exported and not yet overwritten."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_api.engine import HeldWeights
from tandem_api.weights import Shard
from tandem_checkpoint.segments.store import map_for_sending, segment_name

CHUNK_BYTES = 1 << 20
"""A range is sent in chunks of this size, so that no range is ever whole in memory."""


class NotHeld(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The bytes of a generation are not, or no longer, in this pod's segments."""


@dataclass(frozen=True, slots=True)
class Held:
    """One generation in one segment file."""

    weights: HeldWeights
    path: Path


class Exports:
    """The generations whose bytes this pod holds: as many as there are segments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[int, Held] = {}

    def forget(self, generation: int) -> None:
        """Stop offering whatever shares its segment with a generation that is about to be written."""
        name = segment_name(generation)
        self._held = {known: held for known, held in self._held.items() if held.path.name != name}

    def add(self, generation: int, shards: Sequence[Shard]) -> None:
        """Offer a generation whose shards are all written."""
        weights = HeldWeights(generation=generation, segment_bytes=shards[0].segment_bytes, shards=tuple(shards))
        self._held[generation] = Held(weights, self._folder / shards[0].segment)

    def get(self, generation: int) -> Held:
        """Return what is held of a generation; raise NotHeld where that is nothing."""
        if generation not in self._held:
            known = ", ".join(str(number) for number in sorted(self._held)) or "none"
            raise NotHeld(f"generation {generation} is not in this pod's segments; held: {known}")
        return self._held[generation]


async def chunks(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    """Yield the bytes `start <= i < stop` of a segment, a chunk at a time."""
    with map_for_sending(path) as mapped:
        for at in range(start, stop, CHUNK_BYTES):
            yield mapped[at : min(at + CHUNK_BYTES, stop)]
