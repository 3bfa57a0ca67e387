"""Extents of a segment, mapped end to end."""

import mmap
from pathlib import Path

import pytest

from tandem_checkpoint.segments.extents import Extent, can_map, map_extents
from tandem_checkpoint.segments.store import SegmentError, map_for_writing

PAGE = mmap.PAGESIZE


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """Four pages, each of another letter."""
    path = tmp_path / "weights-0.segment"
    path.write_bytes(b"".join(letter * PAGE for letter in (b"a", b"b", b"c", b"d")))
    return path


def test_extents_follow_each_other_in_the_order_that_is_asked_for(segment: Path) -> None:
    with map_extents(segment, [Extent(2 * PAGE, 2 * PAGE), Extent(0, PAGE)]) as mapped:
        assert mapped[:] == b"c" * PAGE + b"d" * PAGE + b"a" * PAGE


def test_what_the_writer_writes_later_is_seen(segment: Path) -> None:
    with map_extents(segment, [Extent(PAGE, PAGE)]) as mapped, map_for_writing(segment) as writer:
        writer[PAGE : PAGE + 1] = b"x"

        assert mapped[:2] == b"xb"


def test_a_stray_write_does_not_reach_the_segment(segment: Path) -> None:
    with map_extents(segment, [Extent(0, PAGE), Extent(3 * PAGE, PAGE)]) as mapped:
        mapped[:] = bytes(2 * PAGE)

    assert segment.read_bytes().strip(b"abcd") == b""


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="is missing"):
        map_extents(tmp_path / "weights-1.segment", [Extent(0, PAGE)])


@pytest.mark.parametrize(
    ("extents", "mappable"),
    [
        ([Extent(0, PAGE), Extent(3 * PAGE, 2 * PAGE)], True),
        ([Extent(0, PAGE), Extent(PAGE, PAGE // 2)], False),
        ([Extent(512, PAGE)], False),
    ],
)
def test_only_whole_pages_can_be_mapped(extents: list[Extent], mappable: bool) -> None:
    assert can_map(extents) is mappable
