"""Trajectories as a Parquet file: one row each, segments as lists, written by row groups and never all in memory."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from arro3.core import DataType, Field, Schema
from arro3.io import read_json, write_parquet

from tandem_api.trajectory import Trajectory
from tandem_cli.report.trajectories import json_line
from tandem_master.buffer.query import Listed

ROWS_AT_ONCE = 64
"""In memory: a response may have a hundred thousand tokens."""
ROWS_OF_GROUP = 256
TOKENS = DataType.list(DataType.int32())
SEGMENT = DataType.struct(
    [
        Field("generation", DataType.int64(), nullable=False),
        Field("tokenIds", TOKENS, nullable=False),
        Field("logprobs", DataType.list(DataType.float64()), nullable=False),
    ]
)
SCHEMA = Schema(
    [
        Field("id", DataType.string(), nullable=False),
        Field("group", DataType.string(), nullable=False),
        Field("problemId", DataType.string(), nullable=False),
        Field("state", DataType.string(), nullable=False),
        Field("iteration", DataType.int64(), nullable=False),
        Field("finishedIteration", DataType.int64()),
        Field("finishReason", DataType.string()),
        Field("reward", DataType.float64()),
        Field("correct", DataType.bool()),
        Field("terms", DataType.string(), nullable=False),
        Field("numTokens", DataType.int64(), nullable=False),
        Field("firstGeneration", DataType.int64()),
        Field("lastGeneration", DataType.int64()),
        Field("promptTokenIds", TOKENS, nullable=False),
        Field("segments", DataType.list(SEGMENT), nullable=False),
    ]
)
"""As the JSON lines have them, but `terms`: JSON as a text, since every job has terms of its own."""


def write_trajectories(rows: Iterable[tuple[Listed, Trajectory]], path: Path) -> int:
    """Write rows to a file and return how many there were; the file is whole or not there. Errors: OSError."""
    number = 0
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        lines, aside = Path(folder) / "rows.jsonl", Path(folder) / "rows.parquet"
        with lines.open("w", encoding="utf-8") as file:
            for listed, trajectory in rows:
                file.write(_line(listed, trajectory) + "\n")
                number += 1
        reader = read_json(lines, SCHEMA, batch_size=ROWS_AT_ONCE)
        write_parquet(reader, aside, compression="zstd(3)", max_row_group_size=ROWS_OF_GROUP)
        aside.replace(path)
    return number


def _line(listed: Listed, trajectory: Trajectory) -> str:
    row = json.loads(json_line(listed, trajectory))
    return json.dumps(row | {"terms": json.dumps(row["terms"], ensure_ascii=False)}, ensure_ascii=False)
