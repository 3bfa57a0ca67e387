"""Pieces that are copied and summed in one pass: the bytes and checksums of two passes, whatever their boxes are."""

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.segments.manifest import Checksum, checksum, covers, verify
from tandem_checkpoint.segments.store import map_for_reading
from tandem_sidecars.megatron import copying, export
from tandem_sidecars.megatron.compilation import INSTRUCTION_SETS, compile_copying
from tandem_sidecars.megatron.copying import LEAST_BYTES, SOURCE, Batch, Box, load_library
from tests.tandem_checkpoint.layouts.models import model
from tests.tandem_sidecars.bare_ranks import Ranks, pieces_of, write_folder

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler as cc")
BLOCK_BYTES = 1024
"""After so many bytes XXH3 scrambles its sums."""
SOURCE_BYTES = 1 << 21
"""More than nine pieces of the largest boxes below take."""
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    compile_copying(SOURCE, folder)
    return folder


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def library(folder: Path, request: pytest.FixtureRequest) -> ctypes.CDLL:
    chosen = folder / request.param
    chosen.mkdir()
    shutil.copy(next(folder.glob(f"copying-{request.param}-*.so")), chosen)
    found = load_library(chosen)
    if found is None:
        pytest.skip(f"this processor has no {request.param}")
    return found


class Memory:
    """Random bytes, a place to copy to, and what should be there afterwards."""

    def __init__(self, seed: int = 0, skew: int = 0) -> None:
        """Args: skew: how far the place is from a multiple of 64 bytes."""
        self._source = np.random.default_rng(seed).integers(0, 256, SOURCE_BYTES, dtype=np.uint8)
        room = np.zeros(2 * SOURCE_BYTES, np.uint8)
        self.target: Bytes = room[-room.ctypes.data % 64 + skew :][:SOURCE_BYTES]
        self.wanted: Bytes = self.target.copy()
        self._end = 0

    def piece(self, *shapes: tuple[int, int, int]) -> tuple[list[Box], int]:
        """Return the boxes of a piece and its checksum. Shapes: rows, bytes of one, and bytes between two."""
        boxes: list[Box] = []
        summed = Checksum()
        for num_rows, row_bytes, gap_bytes in shapes:
            stride = row_bytes + gap_bytes
            rows = [slice(self._end + row * stride, self._end + row * stride + row_bytes) for row in range(num_rows)]
            places = self._source.ctypes.data + self._end, self.target.ctypes.data + self._end
            boxes.append((*places, num_rows, row_bytes, stride, stride))
            for row in rows:
                self.wanted[row] = self._source[row]
                summed.update(self._source[row].tobytes())
            self._end += num_rows * stride
        assert self._end <= SOURCE_BYTES
        return boxes, summed.intdigest()


def copied(library: ctypes.CDLL, pieces: list[list[Box]], num_threads: int = 1) -> list[int]:
    batch = Batch(library, pieces)
    with ThreadPoolExecutor(num_threads) as threads:
        done = [threads.submit(batch.copy) for _ in range(num_threads)]
    assert all(one.result() is None for one in done)
    return batch.checksums()


@needs_compiler
@pytest.mark.parametrize("skew", [0, 1, 32, 63])
@pytest.mark.parametrize(
    "num_bytes", [LEAST_BYTES, 255, 256, 257, *range(BLOCK_BYTES - 1, BLOCK_BYTES + 2), 5000, 8192]
)
def test_a_run_of_any_length_has_the_checksum_of_its_bytes(library: ctypes.CDLL, num_bytes: int, skew: int) -> None:
    memory = Memory(num_bytes, skew)
    boxes, xxh3 = memory.piece((1, num_bytes, 0))

    assert copied(library, [boxes]) == [xxh3] == [checksum(memory.wanted[:num_bytes].tobytes())]
    assert np.array_equal(memory.target, memory.wanted)


@needs_compiler
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 99),
    skew=st.sampled_from([0, 0, 2, 4, 60]),
    unit=st.sampled_from([1, 2, 4, 64]),
    shapes=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=3),
        min_size=1,
        max_size=9,
    ),
    num_threads=st.integers(1, 3),
)
def test_boxes_of_any_shape_are_copied_as_in_two_passes(
    library: ctypes.CDLL,
    seed: int,
    skew: int,
    unit: int,
    shapes: list[list[tuple[int, int, int]]],
    num_threads: int,
) -> None:
    memory = Memory(seed, skew)
    long_enough = (1, 4 * 64, 64)
    pieces = [
        memory.piece(long_enough, *((rows, unit * width, unit * gap) for rows, width, gap in piece)) for piece in shapes
    ]

    assert copied(library, [boxes for boxes, _ in pieces], num_threads) == [xxh3 for _, xxh3 in pieces]
    assert np.array_equal(memory.target, memory.wanted)


@needs_compiler
def test_a_piece_too_short_for_the_one_pass_is_refused(library: ctypes.CDLL) -> None:
    boxes, _ = Memory().piece((1, LEAST_BYTES - 1, 0))

    with pytest.raises(ValueError, match="fewer than 241 bytes"):
        Batch(library, [boxes])


@needs_compiler
def test_an_empty_box_is_refused(library: ctypes.CDLL) -> None:
    boxes, _ = Memory().piece((1, LEAST_BYTES, 0), (0, 64, 0))

    with pytest.raises(ValueError, match="an empty box"):
        Batch(library, [boxes])


@needs_compiler
def test_a_batch_without_pieces_is_done_at_once(library: ctypes.CDLL) -> None:
    assert copied(library, []) == []


def test_without_a_compiler_nothing_is_built_and_a_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "absent"))

    assert compile_copying(SOURCE, tmp_path) == ()

    assert list(tmp_path.iterdir()) == []
    assert "exports copy and sum in two passes" in capsys.readouterr().err


@needs_compiler
def test_a_library_of_another_version_of_the_source_is_not_loaded(tmp_path: Path) -> None:
    changed = tmp_path / SOURCE.name
    changed.write_text(SOURCE.read_text() + "\n")
    compile_copying(changed, tmp_path)

    assert load_library(tmp_path) is None


def larger_model(family: str, hidden: int) -> PolicyConfig:
    """Return a policy whose pieces are long enough for the one pass. hidden: 72: rows are no multiples of 64 bytes."""
    sizes = {"head_dim": 16, "intermediate": 192, "vocabulary": 200}
    return model(family, num_heads=8, num_key_value_heads=4, hidden=hidden, **sizes)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [128, 72])
@pytest.mark.parametrize("family", ["Qwen2ForCausalLM", "Qwen3MoeForCausalLM"])
def test_an_export_is_the_same_in_one_pass_and_in_two(
    library: ctypes.CDLL,
    family: str,
    hidden: int,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = larger_model(family, hidden)
    ranks = Ranks(policy, TrainerSplit(tensor=2), dtype).load(write_folder(tmp_path / "policy", policy, dtype))
    monkeypatch.setattr(export, "PIECE_BYTES", 4096)

    monkeypatch.setattr(copying, "find_library", lambda: None)
    two = ranks.export(tmp_path / "two")
    monkeypatch.setattr(copying, "find_library", lambda: library)
    one = ranks.export(tmp_path / "one")

    assert pieces_of(one) == pieces_of(two)
    assert Path(one.path).read_bytes() == Path(two.path).read_bytes()
    verify(map_for_reading(Path(one.path)), pieces_of(one))


def test_large_boxes_are_cut_by_rows_into_pieces_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = larger_model("Qwen2ForCausalLM", 128)
    ranks = Ranks(policy, TrainerSplit(tensor=2)).load(write_folder(tmp_path / "policy", policy))
    whole = pieces_of(ranks.export(tmp_path / "whole"))

    monkeypatch.setattr(export, "PIECE_BYTES", 4096)
    cut = pieces_of(ranks.export(tmp_path / "cut"))

    assert max(piece.num_bytes for piece in whole) > 4096
    assert max(piece.num_bytes for piece in cut) <= 4096
    assert covers(ranks.layout, cut)
