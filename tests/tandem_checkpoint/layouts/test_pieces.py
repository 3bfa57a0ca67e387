"""Pieces of runs: together they are every byte once, and they are read in extents without a gap."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.weights import Piece
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.manifest import checksum, checksum_of, covers
from tandem_checkpoint.transfer.plan import merge_pieces
from tests.tandem_checkpoint.layouts.models import model, places_of, split_models

SPLIT = TrainerSplit(tensor=2, expert=2)
POLICY = model("Qwen3MoeForCausalLM")
LAYOUT = segment_layout(POLICY, "float32")


def pieces_of(layout: SegmentLayout, split: TrainerSplit, policy: object = POLICY) -> list[Piece]:
    """Return what all ranks of a pod write, in the order of a segment's bytes."""
    placed = {item.tensor.name: item for parameter in layout.parameters for item in parameter.tensors}
    shares = shares_of(policy, places_of(split))  # type: ignore[arg-type]
    pieces = [placed[one.tensor].piece_of(one.start, one.stop) for share in shares for one in share]
    return sorted(pieces, key=lambda piece: (piece.offset_bytes, piece.num_bytes))


def changed(pieces: Sequence[Piece], **changes: object) -> list[Piece]:
    """Return the pieces, the first one with several runs changed."""
    at = next(number for number, piece in enumerate(pieces) if piece.num_runs > 1)
    return [*pieces[:at], pieces[at].model_copy(update=changes), *pieces[at + 1 :]]


def bytes_of(piece: Piece) -> np.ndarray:
    """Return the places of a piece's bytes, one by one."""
    runs = piece.offset_bytes + np.arange(piece.num_runs)[:, None] * piece.stride_bytes
    return (runs + np.arange(piece.run_bytes)).ravel()


@settings(max_examples=40, deadline=None)
@given(split_models())
def test_what_the_ranks_of_any_split_write_is_every_byte_once(case: tuple[object, TrainerSplit]) -> None:
    policy, split = case
    layout = segment_layout(policy, "float32")  # type: ignore[arg-type]

    pieces = pieces_of(layout, split, policy)

    assert covers(layout, pieces)
    places = np.concatenate([bytes_of(piece) for piece in pieces])
    assert len(np.unique(places)) == len(places) == sum(piece.num_bytes for piece in pieces)
    assert not covers(layout, pieces[1:])
    assert not covers(layout, [*pieces, pieces[0]])


@pytest.mark.parametrize(
    "changes",
    [
        {"offset_bytes": 0},
        {"stride_bytes": 4},
        {"num_runs": 1, "stride_bytes": 0},
        {"num_bytes": 4},
        {"tensor": "model.norm.weight"},
        {"tensor": "unknown"},
        {"start": (0,)},
        {"start": (0, 99)},
    ],
    ids=str,
)
def test_a_piece_that_is_not_the_box_that_it_says_is_found(changes: dict[str, object]) -> None:
    pieces = pieces_of(LAYOUT, SPLIT)

    assert covers(LAYOUT, pieces)
    assert not covers(LAYOUT, changed(pieces, **changes))


def test_boxes_that_overlap_as_much_as_they_leave_out_are_found() -> None:
    placed = next(item for parameter in LAYOUT.parameters for item in parameter.tensors if "o_proj" in item.tensor.name)
    rows, columns = placed.tensor.shape
    others = [piece for piece in pieces_of(LAYOUT, TrainerSplit()) if piece.tensor != placed.tensor.name]
    half = rows // 2
    twice = [placed.piece_of((0, 0), (half, columns)), placed.piece_of((0, 0), (half, columns))]

    assert sum(piece.num_bytes for piece in twice) == placed.num_bytes
    assert not covers(LAYOUT, [*others, *twice])


@settings(max_examples=40, deadline=None)
@given(split_models(), st.sampled_from([1, 200, 1 << 20]))
def test_extents_hold_whole_pieces_and_no_other_byte(case: tuple[object, TrainerSplit], most_bytes: int) -> None:
    policy, split = case
    pieces = pieces_of(segment_layout(policy, "float32"), split, policy)  # type: ignore[arg-type]

    extents = merge_pieces(pieces, most_bytes)

    assert [piece for extent in extents for piece in extent.pieces] == pieces
    assert all(extent.num_bytes == sum(piece.num_bytes for piece in extent.pieces) for extent in extents)
    assert all(first.stop <= second.start for first, second in pairwise(extents))


def test_halves_of_one_tensor_are_read_together() -> None:
    pieces = [piece for piece in pieces_of(LAYOUT, SPLIT) if piece.tensor == "model.layers.0.self_attn.o_proj.weight"]

    (extent,) = merge_pieces(pieces, 1)

    assert (len(extent.pieces), extent.num_bytes) == (2, sum(piece.num_bytes for piece in pieces))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 5))
def test_a_checksum_is_over_the_runs_in_their_order(num_runs: int, run_bytes: int, gap: int, first: int) -> None:
    stride = run_bytes + gap if num_runs > 1 else 0
    piece = Piece(
        tensor="a",
        start=(0, 0),
        stop=(num_runs, run_bytes),
        offset_bytes=10 + first,
        num_bytes=num_runs * run_bytes,
        num_runs=num_runs,
        stride_bytes=stride,
        xxh3=0,
    )
    segment = np.random.default_rng(0).integers(0, 256, 200, np.uint8)

    whole = checksum_of(segment.data, piece)

    assert whole == checksum(segment[bytes_of(piece)].tobytes())
    assert checksum_of(segment[10:].tobytes(), piece, 10) == whole


def test_a_buffer_that_ends_before_the_last_run_has_no_right_checksum() -> None:
    (piece, *_) = [piece for piece in pieces_of(LAYOUT, SPLIT) if piece.num_runs > 1]

    assert checksum_of(bytes(piece.stop_bytes - 1), piece) not in (checksum_of(bytes(piece.stop_bytes), piece), 0)


def test_very_many_pieces_are_looked_over_without_expanding_their_runs() -> None:
    policy = replace(POLICY, num_layers=8, num_experts=128, hidden=7168, expert_intermediate=2048, dense_layers=())
    layout = segment_layout(policy, "bfloat16")
    pieces = pieces_of(layout, TrainerSplit(expert_tensor=4), policy)

    assert len(pieces) > 10_000
    assert covers(layout, pieces)
