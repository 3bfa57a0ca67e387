"""Boxes of a folder's tensors: the right bytes, and no others than these are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.disk.coverage import Box
from tandem_checkpoint.disk.index import FolderIndex, read_index
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.reading import PAGE_BYTES, FolderReader
from tests.tandem_checkpoint.disk.counting import CountedReads, pages_of
from tests.tandem_checkpoint.disk.folders import boxes, memory_box_of, part_of, write_single

LARGE = np.arange(512 * 4096, dtype=np.float32).reshape(512, 4096)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FolderIndex:
    """A folder with one tensor of 8 MiB, beside another that nobody wants."""
    return read_index(write_single(tmp_path_factory.mktemp("large"), {"w": LARGE, "x": LARGE}))


def read(index: FolderIndex, target: MemoryBox, counted: CountedReads) -> None:
    with FolderReader(index, read_into=counted) as reader:
        reader.read([target])


def empty_box(box: Box, dtype: Any = np.float32) -> MemoryBox:
    memory = np.zeros([stop - start for start, stop in zip(box.start, box.stop, strict=True)], dtype)
    return MemoryBox(box.tensor, box.start, box.stop, memory)


@given(data=st.data())
def test_any_box_is_read_into_any_memory(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    tensor = np.random.default_rng(0).random(shape, np.float32)
    index = read_index(write_single(tmp_path_factory.mktemp("box"), {"w": tensor}))
    box = data.draw(boxes("w", shape))
    whole = np.zeros(shape, np.float32)  # the box's memory is a view on this, with gaps

    read(index, memory_box_of(whole, box), CountedReads())

    expected = np.zeros(shape, np.float32)
    part_of(expected, box)[...] = part_of(tensor, box)
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize(
    "box",
    [
        Box("w", (128, 0), (256, 4096)),  # rows of a tensor-parallel rank: one run
        Box("w", (0, 1024), (512, 2048)),  # columns: a run of a page for each row
        Box("w", (0, 0), (512, 4000)),  # columns with short gaps, which are read along
        Box("w", (7, 3), (8, 4)),  # one number
    ],
    ids=str,
)
def test_no_page_is_read_that_holds_nothing_of_the_box(large: FolderIndex, box: Box) -> None:
    counted, target = CountedReads(), empty_box(box)

    read(large, target, counted)

    np.testing.assert_array_equal(target.memory, part_of(LARGE, box))
    assert counted.num_bytes <= PAGE_BYTES * len(pages_of(large["w"], box))


def test_rows_and_columns_far_apart_are_read_to_the_byte(large: FolderIndex) -> None:
    counted, target = CountedReads(), empty_box(Box("w", (0, 1024), (512, 2048)))

    read(large, target, counted)

    assert counted.num_bytes == target.memory.nbytes


def test_threads_share_a_large_box(large: FolderIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem_checkpoint.disk.reading.PART_BYTES", 1 << 16)
    counted, target = CountedReads(), empty_box(Box("w", (0, 0), LARGE.shape))

    read(large, target, counted)

    np.testing.assert_array_equal(target.memory, LARGE)
    assert counted.num_calls == LARGE.nbytes >> 16


def test_a_read_that_comes_back_short_goes_on(large: FolderIndex) -> None:
    counted, target = CountedReads(most_bytes=1000), empty_box(Box("w", (0, 0), (4, 4096)))

    read(large, target, counted)

    np.testing.assert_array_equal(target.memory, LARGE[:4])


def test_axes_of_length_one_need_not_agree(large: FolderIndex) -> None:
    memory = np.zeros((3, 1, 4096), np.float32)  # one of three fused experts

    read(large, MemoryBox("w", (5, 0), (6, 4096), memory[1]), CountedReads())

    np.testing.assert_array_equal(memory[1, 0], LARGE[5])
    assert not memory[0].any()


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    index = read_index(write_single(tmp_path, {"w": np.ones(100, np.float32)}))
    index["w"].file.write_bytes(b"")

    with pytest.raises(PolicyFolderError, match=r"model.safetensors has become shorter while it was read; download"):
        read(index, empty_box(Box("w", (0,), (100,))), CountedReads())


def test_a_storage_that_fails_is_named(large: FolderIndex) -> None:
    with pytest.raises(PolicyFolderError, match=r"model.safetensors cannot be read \(Input/output error\)"):
        read(large, empty_box(Box("w", (0, 0), (1, 4096))), CountedReads(fails=True))


@pytest.mark.parametrize(
    ("start", "stop", "memory"),
    [
        ((0, 0), (513, 4096), np.zeros((513, 4096), np.float32)),
        ((3, 0), (2, 4096), np.zeros((0, 4096), np.float32)),
        ((0,), (4096,), np.zeros(4096, np.float32)),
        ((0, 0), (1, 4096), np.zeros(4095, np.float32)),
        ((0, 0), (1, 4096), np.zeros(4096, np.float64)),
    ],
)
def test_a_box_that_does_not_fit_is_refused(
    large: FolderIndex, start: tuple[int, ...], stop: tuple[int, ...], memory: NDArray[Any]
) -> None:
    with pytest.raises(ValueError, match=r"^w\["):
        read(large, MemoryBox("w", start, stop, memory), CountedReads())
