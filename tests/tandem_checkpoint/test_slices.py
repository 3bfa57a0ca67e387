"""What each tensor-parallel rank of a server holds of a segment."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.slices import Box, RankParameter, rank_parameters
from tests.tandem_checkpoint.policies import SMALL

QWEN = replace(
    SMALL, num_layers=1, hidden=16, intermediate=24, head_dim=4, max_positions=32, rope_theta=1e4, eos_token_id=0
)
ATTENTION = "model.layers.0.self_attn"
LAYOUT = segment_layout(QWEN, "float32")


def held(name: str, rank: int, num_ranks: int, config: PolicyConfig = QWEN) -> RankParameter:
    parameters = rank_parameters(segment_layout(config, "float32"), config, rank, num_ranks)
    return next(parameter for parameter in parameters if parameter.name == name)


def numbered(layout: SegmentLayout) -> np.ndarray:
    """Return a segment in which every float32 is another number."""
    return np.arange(layout.num_bytes // 4)


def box_of(segment: np.ndarray, box: Box) -> np.ndarray:
    at = box.offset_bytes // 4
    whole = segment[at : at + int(np.prod(box.shape))].reshape(box.shape)
    return whole[tuple(slice(start, stop) for start, stop in zip(box.start, box.stop, strict=True))]


def value_of(name: str, rank: int, num_ranks: int) -> np.ndarray:
    """Return a rank's parameter, put together from its boxes."""
    return np.concatenate([box_of(numbered(LAYOUT), box) for box in held(name, rank, num_ranks).boxes])


def test_without_tensor_parallelism_each_parameter_is_one_whole_box() -> None:
    parameters = rank_parameters(LAYOUT, QWEN)

    assert [(item.name, item.shape) for item in parameters] == [(it.name, it.shape) for it in LAYOUT.parameters]
    assert {len(item.boxes) for item in parameters} == {1}


def test_each_tensor_of_a_fused_projection_is_cut_for_itself() -> None:
    whole = value_of(f"{ATTENTION}.qkv_proj.weight", 0, 1)

    second = value_of(f"{ATTENTION}.qkv_proj.weight", 1, 2)

    assert (second == np.concatenate([whole[8:16], whole[20:24], whole[28:32]])).all()


def test_a_projection_back_to_the_hidden_size_is_cut_by_columns() -> None:
    whole = value_of(f"{ATTENTION}.o_proj.weight", 0, 1)

    second = value_of(f"{ATTENTION}.o_proj.weight", 1, 2)

    assert (second == whole[:, 8:]).all()


def test_the_padding_rows_of_the_vocabulary_are_cut_like_all_others() -> None:
    assert held("model.embed_tokens.weight", 1, 2).shape == (64, 16)
    assert held("lm_head.weight", 1, 2).boxes[0].start == (64, 0)


def test_norms_are_whole_on_every_rank() -> None:
    assert held("model.norm.weight", 0, 2).boxes == held("model.norm.weight", 1, 2).boxes
    assert held("model.norm.weight", 0, 2).shape == (16,)


def test_with_more_ranks_than_key_value_heads_neighbours_hold_the_same_head() -> None:
    keys = [held(f"{ATTENTION}.qkv_proj.weight", rank, 4).boxes[1] for rank in range(4)]

    assert [(box.start[0], box.stop[0]) for box in keys] == [(0, 4), (0, 4), (4, 8), (4, 8)]


@given(num_ranks=st.sampled_from([1, 2, 4]), scale=st.integers(1, 3), tied=st.booleans())
def test_the_ranks_together_hold_every_number_of_the_segments_parameters(
    num_ranks: int, scale: int, tied: bool
) -> None:
    config = replace(QWEN, hidden=16 * scale, intermediate=8 * scale, tied_embeddings=tied, num_key_value_heads=4)
    layout = segment_layout(config, "float32")
    segment = numbered(layout)

    boxes = [
        box
        for rank in range(num_ranks)
        for parameter in rank_parameters(layout, config, rank, num_ranks)
        for box in parameter.boxes
    ]

    held_numbers = np.unique(np.concatenate([box_of(segment, box).ravel() for box in boxes]))
    wanted = [
        np.arange(it.offset_bytes // 4, it.offset_bytes // 4 + int(np.prod(it.shape))) for it in layout.parameters
    ]
    assert (held_numbers == np.concatenate(wanted)).all()
