"""What a server's ranks hold, against whole tensors cut and joined in another way; and how it gets there."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import ServerPlace, TrainerSplit
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter, held_of
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
    server_places,
    shapes_of,
    split_models,
    tensors_of,
)
from tests.tandem_checkpoint.layouts.reference import server_holds
from tests.tandem_checkpoint.reshard.memories import Bytes, Side, all_batches, carry_out

Case = tuple[PolicyConfig, TrainerSplit]


def memory_of(parameters: Sequence[LocalParameter], policy: PolicyConfig) -> Bytes:
    """Return a rank's memory: its parameters one behind the other."""
    return np.concatenate([put_in(item, tensors_of(policy)).ravel() for item in parameters]).view(np.uint8)


@settings(max_examples=60, deadline=None)
@given(models(), st.sampled_from([1, 2, 4]), st.booleans())
def test_every_parameter_of_every_rank_is_what_the_reference_says(
    policy: PolicyConfig, num_ranks: int, has_expert_parallel: bool
) -> None:
    tensors = tensors_of(policy)

    for place in server_places(policy, num_ranks, has_expert_parallel):
        for name, memory in put_all(server_layout(policy, place), tensors).items():
            np.testing.assert_array_equal(memory, server_holds(name, tensors, policy, place), name)


@settings(max_examples=25, deadline=None)
@given(split_models(), st.sampled_from([1, 2]), st.booleans(), st.booleans())
def test_the_planner_brings_any_trainers_weights_to_any_server(
    case: Case, num_ranks: int, has_expert_parallel: bool, is_hybrid: bool
) -> None:
    policy, split = case
    trainer = [trainer_layout(policy, place) for place in places_of(split)]
    server = [server_layout(policy, place) for place in server_places(policy, num_ranks, has_expert_parallel)]
    shapes = shapes_of(policy)
    have, want = (
        Side((pod,) * len(ranks), tuple(one for rank, own in enumerate(ranks) for one in held_of(rank, own, shapes, 4)))
        for pod, ranks in (("a", trainer), ("a" if is_hybrid else "b", server))
    )
    wanted = [memory_of(own, policy) for own in server]
    memories = [np.full(memory.size // 4, PADDING, np.int32).view(np.uint8) for memory in wanted]

    made = plan(placement_of(have.pods, have.held), placement_of(want.pods, want.held))
    carry_out(all_batches(made, want), [memory_of(own, policy) for own in trainer], memories)

    assert [memory.tobytes() for memory in memories] == [memory.tobytes() for memory in wanted]


@settings(max_examples=40, deadline=None)
@given(models(), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_rank_finds_its_parameters_in_the_segment(
    policy: PolicyConfig, num_ranks: int, has_expert_parallel: bool
) -> None:
    layout, tensors = segment_layout(policy, "float32"), tensors_of(policy)
    segment = np.full(layout.num_bytes // 4, PADDING, np.int32)
    for placed in (item for parameter in layout.parameters for item in parameter.tensors):
        first = placed.offset_bytes // 4
        segment[first : first + placed.num_bytes // 4] = tensors[placed.tensor.name].ravel()

    for place in server_places(policy, num_ranks, has_expert_parallel):
        wanted = put_all(server_layout(policy, place), tensors)
        for item in rank_parameters(
            layout, policy, place.tensor, place.num_tensor, has_expert_parallel=has_expert_parallel
        ):
            memory = np.full(item.shape, -2, np.int32)
            for box in item.boxes:
                first = box.offset_bytes // 4
                whole = segment[first : first + int(np.prod(box.shape))].reshape(box.shape)
                memory[box.in_parameter] = whole[tuple(map(slice, box.start, box.stop))]
            np.testing.assert_array_equal(memory, wanted[item.name], item.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tensor_parallelism_each_parameter_is_one_box_of_the_segment(family: str) -> None:
    policy = model(family)

    parameters = rank_parameters(segment_layout(policy, "float32"), policy)

    assert {len(item.boxes) for item in parameters} == {1}


def test_whole_experts_of_a_rank_are_one_box_of_the_segment() -> None:
    policy = model("MixtralForCausalLM")
    parameters = rank_parameters(segment_layout(policy, "float32"), policy, 1, 2, has_expert_parallel=True)

    (box,) = next(
        item for item in parameters if item.name.endswith("layers.0.block_sparse_moe.experts.routed_experts.w13_weight")
    ).boxes

    assert (box.start[0], box.stop[0], box.is_whole_rows) == (2, 4, True)


def test_experts_that_do_not_divide_are_dealt_out_with_one_more_to_the_first_ranks() -> None:
    policy = model("MixtralForCausalLM", num_experts=3)

    counts = [
        next(item for item in server_layout(policy, ServerPlace(2, rank, True)) if item.name.endswith("w2_weight"))
        for rank in range(2)
    ]

    assert [item.shape[0] for item in counts] == [2, 1]


def test_the_routers_bias_keeps_float32_in_a_segment_of_another_format() -> None:
    layout = segment_layout(model("DeepseekV3ForCausalLM"), "bfloat16")

    wide = {parameter.name for parameter in layout.parameters if parameter.dtype == "float32"}

    assert wide == {f"model.layers.{layer}.mlp.gate.e_score_correction_bias" for layer in (1, 2, 3)}
    assert {info.dtype for info in layout.tensors if "e_score" in info.name} == {"float32"}
