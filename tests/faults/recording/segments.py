"""Compares a segment's bytes with the checksums that were registered for them."""

import time
from collections.abc import Mapping
from pathlib import Path

from xxhash import xxh3_64_intdigest

from tests.faults.history import SegmentCheck
from tests.faults.values import ShardValue, Value


def compare_segment(
    values: Mapping[str, Value], folder: Path, pod: str, source: str, generation: int
) -> SegmentCheck | None:
    """Return what is wrong with the segment of `pod` in its shared `folder`.

    `source`: the pod that has registered the checksums; the pod itself, or the one that it fetches from. None where
    there is nothing to compare, or the registry or the folder has gone meanwhile.
    """
    prefix = f"weights/{generation}/shards/{source}/"
    shards = [value for key, value in values.items() if key.startswith(prefix) and isinstance(value, ShardValue)]
    pieces = [(shard.segment, piece) for shard in shards for piece in shard.pieces]
    broken = []
    try:
        contents = {shard.segment: (folder / shard.segment).read_bytes() for shard in shards}
    except OSError:
        return None
    if not pieces:
        return None
    for segment, piece in pieces:
        content = contents[segment][piece.offset_bytes : piece.offset_bytes + piece.num_bytes]
        if xxh3_64_intdigest(content) != piece.xxh3:
            broken.append(piece.tensor)
    return SegmentCheck(time.time(), pod, generation, len(pieces), tuple(broken))
