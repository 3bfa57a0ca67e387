"""What the stages of a server hold: each layer on one of them, under its own number; the ends where vLLM has them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import ServerPlace, TrainerSplit
from tandem_checkpoint.layouts.server import server_layout, stage_layers
from tandem_checkpoint.layouts.strip import held_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.reshard.placement import placement_of
from tandem_checkpoint.reshard.plan import plan
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.slices import rank_parameters
from tests.tandem_checkpoint.layouts.models import (
    FAMILIES,
    PADDING,
    model,
    models,
    places_of,
    put_all,
    put_in,
    shapes_of,
    split_models,
    tensors_of,
)
from tests.tandem_checkpoint.reshard.memories import Side, all_batches, carry_out

EVERYWHERE = ("MixtralForCausalLM", "Qwen3MoeForCausalLM")
EMBEDDINGS, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def stages_of(num_stages: int, num_tensor: int = 1) -> list[ServerPlace]:
    return [
        ServerPlace(num_tensor, tensor, num_pipeline=num_stages, pipeline=stage)
        for stage in range(num_stages)
        for tensor in range(num_tensor)
    ]


def ends_of(family: str, num_stages: int, **sizes: object) -> list[set[str]]:
    """Return what each stage holds that is in no layer."""
    policy = model(family, **sizes)
    return [
        {item.name for item in server_layout(policy, place)} & {EMBEDDINGS, NORM, HEAD}
        for place in stages_of(num_stages)
    ]


@pytest.mark.parametrize(
    ("num_layers", "num_stages", "lengths"),
    [
        (4, 2, [2, 2]),
        (5, 2, [3, 2]),
        (7, 3, [2, 3, 2]),
        (8, 3, [3, 3, 2]),
        (6, 4, [1, 2, 2, 1]),
        (61, 4, [15, 15, 16, 15]),
    ],
)
def test_layers_are_dealt_out_as_vllm_does(num_layers: int, num_stages: int, lengths: list[int]) -> None:
    """By hand from vllm/distributed/utils.py: the last stage, then the first one, are spared what does not divide."""
    assert [len(stage_layers(num_layers, place)) for place in stages_of(num_stages)] == lengths


@given(models(), st.integers(1, 4))
def test_each_layer_is_on_one_stage_and_keeps_its_number(policy: PolicyConfig, num_stages: int) -> None:
    whole = {item.name: item for item in server_layout(policy, ServerPlace()) if ".layers." in item.name}

    staged = [
        item for place in stages_of(num_stages) for item in server_layout(policy, place) if ".layers." in item.name
    ]

    assert len(staged) == len(whole)
    assert {item.name: item for item in staged} == whole


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in EVERYWHERE])
def test_embeddings_are_on_the_first_stage_and_the_head_on_the_last(family: str) -> None:
    assert ends_of(family, 3) == [{EMBEDDINGS}, set(), {NORM, HEAD}]


@pytest.mark.parametrize("family", EVERYWHERE)
def test_mixtures_of_vllm_have_both_ends_on_every_stage(family: str) -> None:
    assert ends_of(family, 3) == [{EMBEDDINGS, NORM, HEAD}] * 3


def test_the_last_stage_has_tied_embeddings_too() -> None:
    assert ends_of("Qwen2ForCausalLM", 3, tied_embeddings=True) == [{EMBEDDINGS}, set(), {EMBEDDINGS, NORM}]


@settings(max_examples=40, deadline=None)
@given(models(), st.sampled_from([2, 3]), st.sampled_from([1, 2]))
def test_a_rank_finds_the_parameters_of_its_stage_in_the_segment(
    policy: PolicyConfig, num_stages: int, num_tensor: int
) -> None:
    policy = replace(policy, num_heads=4, num_key_value_heads=4)
    layout, tensors = segment_layout(policy, "float32"), tensors_of(policy)
    segment = np.full(layout.num_bytes // 4, PADDING, np.int32)
    for placed in (item for parameter in layout.parameters for item in parameter.tensors):
        first = placed.offset_bytes // 4
        segment[first : first + placed.num_bytes // 4] = tensors[placed.tensor.name].ravel()

    for place in stages_of(num_stages, num_tensor):
        wanted = put_all(server_layout(policy, place), tensors)
        found = rank_parameters(layout, policy, place.tensor, num_tensor, stage=place.pipeline, num_stages=num_stages)
        assert [item.name for item in found] == list(wanted)
        for item in found:
            memory = np.full(item.shape, -2, np.int32)
            for box in item.boxes:
                first = box.offset_bytes // 4
                whole = segment[first : first + int(np.prod(box.shape))].reshape(box.shape)
                memory[box.in_parameter] = whole[tuple(map(slice, box.start, box.stop))]
            np.testing.assert_array_equal(memory, wanted[item.name], item.name)


@settings(max_examples=20, deadline=None)
@given(split_models(), st.sampled_from([2, 3]))
def test_the_planner_brings_any_trainers_weights_to_the_stages(
    case: tuple[PolicyConfig, TrainerSplit], num_stages: int
) -> None:
    policy, split = case
    trainer = [trainer_layout(policy, place) for place in places_of(split)]
    server = [server_layout(policy, place) for place in stages_of(num_stages)]
    shapes = shapes_of(policy)
    have, want = (
        Side((pod,) * len(ranks), tuple(one for rank, own in enumerate(ranks) for one in held_of(rank, own, shapes, 4)))
        for pod, ranks in (("a", trainer), ("b", server))
    )
    wanted = [
        np.concatenate([np.empty(0, np.int32), *(put_in(item, tensors_of(policy)).ravel() for item in own)]).view(
            np.uint8
        )
        for own in server
    ]
    memories = [np.full(memory.size // 4, PADDING, np.int32).view(np.uint8) for memory in wanted]

    made = plan(placement_of(have.pods, have.held), placement_of(want.pods, want.held))
    carry_out(
        all_batches(made, want),
        [np.concatenate([put_in(item, tensors_of(policy)).ravel() for item in own]).view(np.uint8) for own in trainer],
        memories,
    )

    assert [memory.tobytes() for memory in memories] == [memory.tobytes() for memory in wanted]
