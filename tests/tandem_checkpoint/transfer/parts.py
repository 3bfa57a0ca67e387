"""Pods of a model that spans them: each has its part of a generation in a segment, and zeros where it has nothing."""

import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tandem_api.weights import Piece, Shard
from tandem_checkpoint.segments.layout import Placed
from tandem_checkpoint.segments.manifest import checksum_of
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.transfer.mooncake import Session
from tandem_checkpoint.transfer.runs import runs_of
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, Pod, exporting_pod

NUM_PARTS = 2
REFERENCE = random.Random(1).randbytes(LAYOUT.num_bytes)
"""All of a segment. Its padding belongs to no piece."""


def piece_of(placed: Placed, start: tuple[int, ...], stop: tuple[int, ...]) -> Piece:
    """Return a box of a tensor of the reference."""
    piece = placed.piece_of(start, stop)
    return piece.model_copy(update={"xxh3": checksum_of(REFERENCE, piece)})


def part(number: int) -> tuple[Piece, ...]:
    """Return what one of the ranks holds that share matrices: rows of some, columns of others, and all small ones."""
    return tuple(_part(number))


def _part(number: int) -> Iterator[Piece]:
    placed = [placed for parameter in LAYOUT.parameters for placed in parameter.tensors]
    for turn, item in enumerate(placed):
        shape = item.tensor.shape
        axis = turn % 2 if len(shape) == 2 else None
        start, stop = [0] * len(shape), list(shape)
        if axis is not None:
            length = shape[axis] // NUM_PARTS
            start[axis], stop[axis] = number * length, (number + 1) * length
        yield piece_of(item, tuple(start), tuple(stop))


WHOLE = {(piece.tensor, piece.start, piece.stop): piece for number in range(NUM_PARTS) for piece in part(number)}
"""All pieces, each once."""


def part_shard(pieces: Sequence[Piece], incarnation: str = "a") -> Shard:
    return Shard(
        generation=GENERATION,
        incarnation=incarnation,
        segment=segment_name(GENERATION),
        segment_bytes=LAYOUT.num_bytes,
        pieces=tuple(pieces),
    )


def whole(pieces: Iterable[Piece]) -> bytes:
    """Return a segment with these pieces of the reference."""
    segment = bytearray(LAYOUT.num_bytes)
    for piece in pieces:
        runs = runs_of(piece)
        runs.in_(segment)[:] = runs.in_(REFERENCE)
    return bytes(segment)


@asynccontextmanager
async def part_pods(folder: Path, numbers: Sequence[int], session: Session | None) -> AsyncIterator[list[Pod]]:
    """Run a pod for each number of a part, hybrid pods by ordinal."""
    async with AsyncExitStack() as stack:
        pods = []
        for ordinal, number in enumerate(numbers):
            pod = await stack.enter_async_context(exporting_pod(folder, f"toy-hybrid-{ordinal}", session=session))
            pod.shard = part_shard(part(number), f"incarnation {ordinal}")
            (pod.folder / segment_name(GENERATION)).write_bytes(whole(part(number)))
            pod.exports.add(GENERATION, [pod.shard])
            pods.append(pod)
        yield pods
