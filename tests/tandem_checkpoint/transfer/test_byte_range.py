"""The Range header: one range within the segment, or a clear refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_checkpoint.transfer.byte_range import BadRange, ByteRange, parse_range

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
