"""What a segment holds, written beside it: it outlives the engine that exported it, as the segment does.

A trainer that starts again finds there which generation it can restore, and registers it once more without writing any.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from tandem_api.resource import Resource
from tandem_api.weights import Shard
from tandem_checkpoint.segments.store import NUM_BUFFERS, segment_name


class ExportRecord(Resource):
    """One generation in one segment of this pod."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    lineage: str
    """Run of generations that the number belongs to."""
    shards: tuple[Shard, ...]
    """What each rank of the pod wrote."""


def record_path(folder: Path, generation: int) -> Path:
    """Return the record's file of the segment that a generation goes into."""
    return (folder / segment_name(generation)).with_suffix(".json")


def write_record(folder: Path, generation: int, lineage: str, shards: Sequence[Shard]) -> ExportRecord:
    """Say what the segment holds, after all of it was written."""
    record = ExportRecord(generation=generation, lineage=lineage, shards=tuple(shards))
    path = record_path(folder, generation)
    aside = path.with_suffix(".new")
    aside.write_text(record.model_dump_json())
    os.replace(aside, path)
    return record


def forget_record(folder: Path, generation: int) -> None:
    """Say nothing of the segment any more, before it is written."""
    record_path(folder, generation).unlink(missing_ok=True)


def read_record(folder: Path, generation: int, lineage: str) -> ExportRecord | None:
    """Return the record of just this generation, None where the segment holds another one, or who knows what."""
    record = _read(record_path(folder, generation))
    return record if record and (record.generation, record.lineage) == (generation, lineage) else None


def read_records(folder: Path) -> tuple[ExportRecord, ...]:
    """Return the records of all segments that hold something."""
    found = (_read(record_path(folder, number)) for number in range(NUM_BUFFERS))
    return tuple(record for record in found if record is not None)


def _read(path: Path) -> ExportRecord | None:
    try:
        return ExportRecord.model_validate_json(path.read_text())
    except (FileNotFoundError, ValidationError):
        return None
