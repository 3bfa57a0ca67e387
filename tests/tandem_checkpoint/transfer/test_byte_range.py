"""The bytes that a request asks for: within the segment, or a clear refusal."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.engine import ByteRuns
from tandem_checkpoint.transfer.byte_range import BadRange, ByteRange, parse_range, parse_runs
from tandem_checkpoint.transfer.runs import Runs, cut, gathered, scatter, size_of

SIZE = 4096


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [("", 0, SIZE), ("bytes=0-0", 0, 1), ("bytes=0-4095", 0, SIZE), ("bytes=100-199", 100, 200), ("bytes=7-", 7, SIZE)],
)
def test_a_range_is_what_the_header_says(header: str, start: int, stop: int) -> None:
    assert parse_range(header, SIZE) == ByteRange(start, stop)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-4096",
        "bytes=4096-",
        "bytes=5-4",
        "bytes=-5",
        "bytes=0-1,4-5",
        "bytes=a-b",
        "items=0-1",
        "bytes 0-1",
        "x",
    ],
)
def test_anything_else_is_refused(header: str) -> None:
    with pytest.raises(BadRange, match="Range: "):
        parse_range(header, SIZE)


@given(st.text(max_size=20), st.integers(0, 100))
def test_no_header_gives_bytes_outside_of_the_segment(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except BadRange:
        return
    assert 0 <= found.start <= found.stop <= size


def test_runs_are_what_the_body_says() -> None:
    wanted = [
        ByteRuns(offset_bytes=96, run_bytes=32, num_runs=31, stride_bytes=128),
        ByteRuns(offset_bytes=0, run_bytes=4),
    ]

    assert parse_runs(wanted, SIZE) == (Runs(96, 32, 31, 128), Runs(0, 4))


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([ByteRuns(offset_bytes=4095, run_bytes=2)], "up to byte 4097 are not within"),
        ([ByteRuns(offset_bytes=0, run_bytes=64, num_runs=64, stride_bytes=65)], "up to byte 4159 are not within"),
        ([ByteRuns(offset_bytes=0, run_bytes=64, num_runs=2)], "of 64 bytes cannot lie 0 apart"),
        ([ByteRuns(offset_bytes=0, run_bytes=4096), ByteRuns(offset_bytes=0, run_bytes=1)], "4097 bytes are asked for"),
    ],
)
def test_runs_that_are_not_there_are_refused(runs: list[ByteRuns], told: str) -> None:
    with pytest.raises(BadRange, match=told):
        parse_runs(runs, SIZE)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 5)), max_size=6), st.integers(1, 40))
def test_runs_that_are_gathered_and_scattered_are_where_they_were(
    rows: list[tuple[int, int, int]], chunk_bytes: int
) -> None:
    runs, offset = [], 3
    for run_bytes, num_runs, gap in rows:
        runs.append(Runs(offset, run_bytes, num_runs, run_bytes + gap))
        offset = runs[-1].stop_bytes
    segment, into = bytes(random.Random(1).randbytes(offset)), bytearray(offset)

    data = b"".join(gathered(segment, runs, chunk_bytes))
    scatter(memoryview(data), runs, into)

    assert len(data) == size_of(runs) == sum(row.num_bytes for row in cut(runs, chunk_bytes))
    assert all((row.in_(into) == row.in_(segment)).all() for row in runs)
    assert b"".join(segment[row.offset_bytes : row.stop_bytes] for row in cut(runs, chunk_bytes)) == data
