"""What this pod's segments hold: the generations that were written into them and not yet overwritten."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_api.engine import HeldWeights, PieceMismatch, VerifiedWeights
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.segments.manifest import checksum_of
from tandem_checkpoint.segments.store import map_for_sending, segment_name
from tandem_checkpoint.transfer.runs import Runs, gathered

CHUNK_BYTES = 1 << 20
"""A range is sent in chunks of this size, so that no range is ever whole in memory."""


MOST_STREAMS = 8
"""Ranges that an engine sends at once: readers have other sources, and its pod has other work."""


class NotHeld(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The bytes of a generation are not, or no longer, in this pod's segments."""


class AllStreamsTaken(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """As many readers as may are being sent bytes; one more would slow the job."""


@dataclass(slots=True)
class Streams:
    """Counts the ranges that are being sent."""

    num_taken: int = 0

    def take(self) -> None:
        """Count one more. Errors: AllStreamsTaken."""
        if self.num_taken >= MOST_STREAMS:
            raise AllStreamsTaken(f"{self.num_taken} ranges are being sent now; ask another pod, or again in a moment")
        self.num_taken += 1

    def give_back(self) -> None:
        self.num_taken -= 1


@dataclass(frozen=True, slots=True)
class Held:
    """One generation in one segment file."""

    weights: HeldWeights
    path: Path

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return tuple(piece for shard in self.weights.shards for piece in shard.pieces)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of tensors in the segment."""
        return sum(piece.num_bytes for piece in self.pieces)


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

    def list(self) -> tuple[Held, ...]:
        """Return everything that is held, by generation."""
        return tuple(self._held[generation] for generation in sorted(self._held))

    async def verify(self, generation: int) -> VerifiedWeights:
        """Read a generation's bytes once, beside everything else, and compare every checksum.

        Errors: NotHeld, also where the segment was written anew meanwhile: then what was read says nothing.
        """
        held = self.get(generation)
        began = time.perf_counter()
        mismatches = await asyncio.to_thread(_mismatches, held.path, held.pieces)
        if self._held.get(generation) is not held:
            raise NotHeld(f"generation {generation} was overwritten while it was read; verify the one that is held now")
        return VerifiedWeights(
            generation=generation,
            is_intact=not mismatches,
            mismatches=mismatches,
            num_pieces=len(held.pieces),
            num_bytes=held.num_bytes,
            seconds=time.perf_counter() - began,
        )


async def chunks(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    """Yield the bytes `start <= i < stop` of a segment, a chunk at a time."""
    with map_for_sending(path) as mapped:
        for at in range(start, stop, CHUNK_BYTES):
            yield mapped[at : min(at + CHUNK_BYTES, stop)]


async def chunks_of_runs(path: Path, runs: Sequence[Runs]) -> AsyncIterator[bytes]:
    """Yield the bytes of runs of a segment, one behind the other, a chunk at a time."""
    mapped = map_for_sending(path)  # it goes with its last view
    for chunk in gathered(mapped, runs, CHUNK_BYTES):
        yield chunk


def _mismatches(path: Path, pieces: Iterable[Piece]) -> tuple[PieceMismatch, ...]:
    """Return the pieces of a segment whose bytes are not those that were registered, by their place."""
    found = []
    with map_for_sending(path) as mapped, memoryview(mapped) as view:
        for piece in sorted(pieces, key=lambda piece: piece.offset_bytes):
            xxh3 = checksum_of(view, piece)
            if xxh3 != piece.xxh3:
                place = piece.model_dump(exclude={"xxh3", "num_runs", "stride_bytes"}, by_alias=False)
                found.append(PieceMismatch(**place, registered_xxh3=piece.xxh3, found_xxh3=xxh3))
    return tuple(found)
