"""Segments: two files written in turns, a layout that follows from the sizes, and proof of every byte."""

import os
import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.weights import Piece, Shard
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.server import VOCABULARY_MULTIPLE
from tandem_checkpoint.segments.layout import ALIGNMENT_BYTES, SegmentLayout, segment_layout
from tandem_checkpoint.segments.manifest import BrokenSegment, checksum, manifest_of, verify
from tandem_checkpoint.segments.store import (
    SegmentError,
    allocate,
    map_for_reading,
    map_for_writing,
    segment_name,
)
from tests.tandem_checkpoint.pieces import whole_piece
from tests.tandem_checkpoint.policies import SMALL, TIED

ALLOCATE_PROGRAM = """
import sys
from pathlib import Path
from tandem_checkpoint.segments.store import SegmentError, allocate
try:
    allocate(Path(sys.argv[1]), int(sys.argv[2]))
except SegmentError as error:
    print(error)
"""
policies = st.builds(
    lambda groups, ratio, head_dim, **sizes: PolicyConfig(
        architecture="Qwen2ForCausalLM",
        num_heads=groups * ratio,
        num_key_value_heads=groups,
        head_dim=head_dim,
        max_positions=64,
        norm_epsilon=1e-6,
        rope_theta=1e4,
        eos_token_id=0,
        **sizes,
    ),
    groups=st.integers(1, 4),
    ratio=st.integers(1, 4),
    head_dim=st.sampled_from([8, 16, 24]),
    num_layers=st.integers(1, 3),
    hidden=st.integers(1, 80),
    intermediate=st.integers(1, 80),
    vocabulary=st.integers(1, 200),
    tied_embeddings=st.booleans(),
)


def shape(layout: SegmentLayout, name: str) -> tuple[int, ...]:
    return next(parameter.shape for parameter in layout.parameters if parameter.name == name)


def whole_shard(layout: SegmentLayout) -> Shard:
    """Return the shard of one rank that wrote everything."""
    pieces = tuple(whole_piece(placed, 0) for parameter in layout.parameters for placed in parameter.tensors)
    return Shard(
        generation=3, incarnation="a", segment="weights-1.segment", segment_bytes=layout.num_bytes, pieces=pieces
    )


def with_pieces(shard: Shard, pieces: Sequence[Piece]) -> Shard:
    return shard.model_copy(update={"pieces": tuple(pieces)})


def test_untied_embeddings_are_two_tensors_and_tied_ones_a_single_one() -> None:
    untied = {tensor.name for tensor in segment_layout(SMALL, "float32").tensors}
    tied = {tensor.name for tensor in segment_layout(TIED, "float32").tensors}

    assert untied - tied == {"lm_head.weight"}
    assert tied < untied


def test_embeddings_are_padded_to_the_servers_multiple() -> None:
    layout = segment_layout(SMALL, "float32")

    assert shape(layout, "model.embed_tokens.weight") == (128, SMALL.hidden)
    assert shape(layout, "lm_head.weight") == (128, SMALL.hidden)
    assert SMALL.vocabulary == 70


def test_a_vocabulary_that_fits_gets_no_padding() -> None:
    layout = segment_layout(replace(SMALL, vocabulary=2 * VOCABULARY_MULTIPLE), "float32")

    assert shape(layout, "model.embed_tokens.weight") == (128, SMALL.hidden)


def test_query_key_and_value_are_one_parameter_of_the_server() -> None:
    layout = segment_layout(SMALL, "float32")

    assert shape(layout, "model.layers.1.self_attn.qkv_proj.weight") == ((4 + 2 + 2) * 16, 64)
    assert shape(layout, "model.layers.1.self_attn.qkv_proj.bias") == ((4 + 2 + 2) * 16,)
    assert shape(layout, "model.layers.1.mlp.gate_up_proj.weight") == (2 * 96, 64)


def test_bfloat16_takes_half_the_bytes() -> None:
    float32 = segment_layout(SMALL, "float32").parameters[0].tensors[0]
    bfloat16 = segment_layout(SMALL, "bfloat16").parameters[0].tensors[0]

    assert float32.num_bytes == SMALL.vocabulary * SMALL.hidden * 4 == 2 * bfloat16.num_bytes


@given(policies, st.sampled_from(["float32", "bfloat16"]))
def test_no_two_tensors_of_any_policy_overlap(policy: PolicyConfig, dtype: str) -> None:
    layout = segment_layout(policy, dtype)

    places = sorted((placed.offset_bytes, placed.num_bytes) for item in layout.parameters for placed in item.tensors)
    ends = [offset + size for offset, size in places]
    starts = [offset for offset, _ in places]
    assert all(end <= start for end, start in zip(ends, [*starts[1:], layout.num_bytes], strict=True))


@given(policies, st.sampled_from([("float32", 4), ("bfloat16", 2)]))
def test_every_parameter_of_any_policy_is_aligned_and_holds_its_tensors_end_to_end(
    policy: PolicyConfig, number: tuple[str, int]
) -> None:
    dtype, item_bytes = number
    layout = segment_layout(policy, dtype)

    assert all(item.offset_bytes % ALIGNMENT_BYTES == 0 for item in layout.parameters)
    assert all(item.tensors[0].offset_bytes == item.offset_bytes for item in layout.parameters)
    assert all(
        sum(placed.num_bytes for placed in item.tensors) <= prod(item.shape) * item_bytes for item in layout.parameters
    )


@given(st.integers(0, 1000))
def test_neighbouring_generations_never_share_a_file(generation: int) -> None:
    assert segment_name(generation) != segment_name(generation + 1)
    assert segment_name(generation) == segment_name(generation + 2)


def test_both_segments_are_reserved_at_once_and_for_good(tmp_path: Path) -> None:
    allocate(tmp_path, 100_000)

    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["weights-0.segment", "weights-1.segment"]
    assert [path.stat().st_size for path in files] == [100_000, 100_000]
    assert all(path.stat().st_blocks * 512 >= 100_000 for path in files)


def test_allocating_again_keeps_what_was_written(tmp_path: Path) -> None:
    allocate(tmp_path, 8192)
    map_for_writing(tmp_path / segment_name(0))[0] = 7

    allocate(tmp_path, 8192)

    assert map_for_reading(tmp_path / segment_name(0))[0] == 7


def test_a_segment_of_another_size_is_cut_or_grown(tmp_path: Path) -> None:
    allocate(tmp_path, 8192)
    allocate(tmp_path, 4096)

    assert (tmp_path / segment_name(0)).stat().st_size == 4096


def test_a_file_that_may_not_grow_is_no_room(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", ALLOCATE_PROGRAM, str(tmp_path), "1000000"],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )

    assert finished.stdout.startswith(f"{tmp_path} has no room for a weight segment of 1000000 bytes; enlarge spec.")


def test_a_full_volume_is_found_out_before_anything_is_written(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1" 4000000'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, ALLOCATE_PROGRAM]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in finished.stderr or "mount" in finished.stderr:
        pytest.skip(f"mounting needs privileges: {finished.stderr.strip()}")

    assert "has no room for a weight segment of 4000000 bytes" in finished.stdout


def test_what_is_written_is_seen_and_a_reader_cannot_write_back(tmp_path: Path) -> None:
    allocate(tmp_path, 4096)
    writer, reader = map_for_writing(tmp_path / segment_name(0)), map_for_reading(tmp_path / segment_name(0))

    writer[10] = 1
    seen = reader[10]
    reader[20] = 2

    assert seen == 1
    assert writer[20] == 0


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match=r"weights-0\.segment is missing; was the shared volume emptied"):
        map_for_reading(tmp_path / segment_name(0))


def test_a_manifest_names_every_parameter_of_the_server() -> None:
    layout = segment_layout(SMALL, "float32")

    manifest = manifest_of(layout, [whole_shard(layout)], "/shm/weights-1.segment")

    assert manifest.generation == 3
    assert [item.name for item in manifest.parameters] == [item.name for item in layout.parameters]


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_shards_make_up_a_generation_in_whatever_way_they_split_it(num_ranks: int, order: random.Random) -> None:
    layout = segment_layout(SMALL, "float32")
    shard = whole_shard(layout)
    pieces = list(shard.pieces)
    order.shuffle(pieces)
    shards = [with_pieces(shard, pieces[rank::num_ranks]) for rank in range(num_ranks)]

    manifest = manifest_of(layout, shards, "s")

    assert {piece.tensor for piece in manifest.pieces} == {tensor.name for tensor in layout.tensors}


def test_a_missing_piece_is_named() -> None:
    layout = segment_layout(SMALL, "float32")
    shard = whole_shard(layout)

    with pytest.raises(BrokenSegment, match=r"do not make up model\.norm\.weight exactly once"):
        manifest_of(layout, [with_pieces(shard, [p for p in shard.pieces if p.tensor != "model.norm.weight"])], "s")


def test_a_piece_that_two_ranks_wrote_is_refused() -> None:
    layout = segment_layout(SMALL, "float32")
    shard = whole_shard(layout)

    with pytest.raises(BrokenSegment, match="exactly once"):
        manifest_of(layout, [shard, with_pieces(shard, shard.pieces[:1])], "s")


def test_a_piece_in_a_wrong_place_is_named() -> None:
    layout = segment_layout(SMALL, "float32")
    shard = whole_shard(layout)
    moved = shard.pieces[0].model_copy(update={"offset_bytes": shard.pieces[0].offset_bytes + 4})

    with pytest.raises(BrokenSegment, match=r"model\.embed_tokens\.weight"):
        manifest_of(layout, [with_pieces(shard, [moved, *shard.pieces[1:]])], "s")


def pieces_over(data: bytes, num_pieces: int) -> list[Piece]:
    """Cut some bytes into pieces with right checksums."""
    size = -(-len(data) // num_pieces)
    return [
        Piece(
            tensor=f"tensor {at // size}",
            start=(0,),
            stop=(1,),
            offset_bytes=at,
            num_bytes=len(data[at : at + size]),
            xxh3=checksum(data[at : at + size]),
        )
        for at in range(0, len(data), size)
    ]


def test_untouched_bytes_are_verified() -> None:
    data = os.urandom(1000)

    verify(data, pieces_over(data, 7))


@given(st.binary(min_size=1, max_size=500), st.integers(1, 9), st.data())
def test_one_flipped_bit_anywhere_is_caught_and_its_tensor_named(
    data: bytes, num_pieces: int, draw: st.DataObject
) -> None:
    pieces = pieces_over(data, num_pieces)
    at, bit = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 7))
    broken = bytearray(data)
    broken[at] ^= 1 << bit
    (hit,) = (piece for piece in pieces if piece.offset_bytes <= at < piece.offset_bytes + piece.num_bytes)

    with pytest.raises(BrokenSegment, match=f"checksum of {hit.tensor} differs from what the trainer registered"):
        verify(broken, pieces)


def test_of_many_broken_tensors_three_are_named() -> None:
    pieces = pieces_over(os.urandom(100), 5)

    with pytest.raises(BrokenSegment, match="checksum of tensor 0, tensor 1, tensor 2 and 2 more differs"):
        verify(bytes(100), pieces)
