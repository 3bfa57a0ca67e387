"""Scales of quantised matrices, on each side: against scales that are cut and joined as the matrices are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.block_scales import SCALES, BlockScales
from tandem_checkpoint.architectures.block_split import block_problems
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.split import SplitRefused, check_split, check_trainer_split
from tandem_checkpoint.layouts.place import ServerPlace, TrainerSplit
from tandem_checkpoint.layouts.scales import handed_over, quantised_tensors
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter, held_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.reshard.placement import placement_of
from tandem_checkpoint.reshard.plan import plan
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.slices import rank_parameters
from tests.tandem_checkpoint.layouts.models import (
    PADDING,
    Numbers,
    model,
    places_of,
    put_all,
    put_in,
    quantised_models,
    server_places,
    shapes_of,
)
from tests.tandem_checkpoint.reshard.memories import Bytes, Side, all_batches, carry_out

Case = tuple[PolicyConfig, TrainerSplit]
WHOLE = ServerPlace()
FULL = model(
    "DeepseekV3ForCausalLM",
    hidden=256,
    intermediate=512,
    num_heads=8,
    num_key_value_heads=8,
    head_dim=128,
    qk_nope_head_dim=64,
    qk_rope_head_dim=64,
    v_head_dim=64,
    q_lora_rank=256,
    kv_lora_rank=192,
    expert_intermediate=256,
    shared_intermediate=256,
    block_scales=BlockScales(),
)


def block_numbers(policy: PolicyConfig) -> dict[str, Numbers]:
    """Return for each quantised matrix the number of every element's block, and as its scales each block's number."""
    scales = policy.block_scales
    assert scales is not None
    made: dict[str, Numbers] = {}
    first = 0
    for name in sorted(quantised_tensors(policy)):
        rows, columns = shapes_of(policy)[name]
        grid = scales.grid((rows, columns))
        made[name + SCALES] = np.arange(first, first + grid[0] * grid[1], dtype=np.int32).reshape(grid)
        first += made[name + SCALES].size
        made[name] = np.kron(made[name + SCALES], np.ones(scales.block, np.int32))[:rows, :columns]
    others = {name: np.full(shape, PADDING, np.int32) for name, shape in shapes_of(policy).items()}
    return others | made


def spread(scales: Numbers, shape: tuple[int, ...], block: tuple[int, int]) -> Numbers:
    """Return what a kernel takes for the scale of each element: that of its row and column within the parameter."""
    whole = np.kron(scales, np.ones((1,) * (scales.ndim - 2) + block, np.int32))
    return whole[..., : shape[-2], : shape[-1]]


@settings(max_examples=60, deadline=None)
@given(quantised_models(), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_kernel_finds_each_elements_scale_by_its_place_in_the_servers_parameter(
    case: Case, num_ranks: int, has_expert_parallel: bool
) -> None:
    policy, numbers = case[0], block_numbers(case[0])
    scales = policy.block_scales
    assert scales is not None

    for place in server_places(policy, num_ranks, has_expert_parallel):
        held = put_all(server_layout(policy, place), numbers)
        matrices = [name for name in held if name + SCALES in held]
        assert matrices
        for name in matrices:
            memory = held[name]
            np.testing.assert_array_equal(spread(held[name + SCALES], memory.shape, scales.block), memory, name)


@settings(max_examples=40, deadline=None)
@given(quantised_models(), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_rank_finds_matrices_and_scales_in_the_segment(case: Case, num_ranks: int, has_expert_parallel: bool) -> None:
    policy, numbers = case[0], block_numbers(case[0])
    layout = segment_layout(policy, "float32")
    segment = {
        (placed.offset_bytes, placed.tensor.shape): numbers[placed.tensor.name]
        for parameter in layout.parameters
        for placed in parameter.tensors
    }
    whole = {
        (item.offset_bytes, item.shape): memory
        for item, memory in zip(layout.parameters, put_all(server_layout(policy, WHOLE), numbers).values(), strict=True)
    }

    for place in server_places(policy, num_ranks, has_expert_parallel):
        wanted = put_all(server_layout(policy, place), numbers)
        ranks = rank_parameters(layout, policy, place.tensor, place.num_tensor, has_expert_parallel=has_expert_parallel)
        for item in ranks:
            memory = np.full(item.shape, -2, np.int32)
            for box in item.boxes:
                tensor = (whole | segment)[box.offset_bytes, box.shape]
                memory[box.in_parameter] = tensor[tuple(map(slice, box.start, box.stop))]
            np.testing.assert_array_equal(memory, wanted[item.name], item.name)
        assert [item.name for item in ranks] == [*wanted]


@settings(max_examples=20, deadline=None)
@given(quantised_models(), st.sampled_from([1, 2]))
def test_the_planner_brings_matrices_and_scales_to_any_server(case: Case, num_ranks: int) -> None:
    policy, split = case
    numbers, shapes = block_numbers(policy), {one.name: one.shape for one in segment_layout(policy, "float32").tensors}
    trainer = [tuple(handed_over(trainer_layout(policy, place), policy)) for place in places_of(split)]
    server = [server_layout(policy, place) for place in server_places(policy, num_ranks, False)]
    have, want = (
        Side((pod,) * len(ranks), tuple(one for rank, own in enumerate(ranks) for one in held_of(rank, own, shapes, 4)))
        for pod, ranks in (("a", trainer), ("b", server))
    )
    wanted = [memory_of(own, numbers) for own in server]
    memories = [memory_of(own, {name: 0 * tensor + PADDING for name, tensor in numbers.items()}) for own in server]

    made = plan(placement_of(have.pods, have.held), placement_of(want.pods, want.held))
    carry_out(all_batches(made, want), [memory_of(own, numbers) for own in trainer], memories)

    assert [memory.tobytes() for memory in memories] == [memory.tobytes() for memory in wanted]


def memory_of(parameters: Sequence[LocalParameter], numbers: Mapping[str, Numbers]) -> Bytes:
    """Return a rank's memory: its parameters one behind the other, matrices in FP8 as bytes."""
    held = [(put_in(item, numbers), np.uint8 if item.dtype == "float8_e4m3fn" else np.int32) for item in parameters]
    return np.concatenate([memory.astype(item).ravel().view(np.uint8) for memory, item in held])


def test_formats_are_those_of_the_hand_over() -> None:
    layout = segment_layout(FULL, "bfloat16")

    formats = {parameter.name: parameter.dtype for parameter in layout.parameters}

    assert formats["model.layers.1.mlp.experts.routed_experts.w13_weight"] == "float8_e4m3fn"
    assert formats["model.layers.1.mlp.experts.routed_experts.w13_weight_scale_inv"] == "float32"
    plain = {re.sub(r"model\.layers\.\d+\.", "", name) for name, dtype in formats.items() if dtype == "bfloat16"}
    assert plain == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_a_layernorm.weight",
        "self_attn.kv_a_layernorm.weight",
        "mlp.gate.weight",
    }


@pytest.mark.parametrize(
    ("sizes", "split", "told"),
    [
        ({}, TrainerSplit(tensor=2), None),
        (
            {},
            TrainerSplit(tensor=4),
            "tensor: 4 cuts self_attn.q_a_proj into 64 rows, not a multiple of the block of 128; use 1 or 2",
        ),
        ({"intermediate": 768}, TrainerSplit(tensor=2, expert=2), None),
        (
            {"v_head_dim": 48},
            TrainerSplit(tensor=2),
            "tensor: 2 cuts self_attn.kv_b_proj into 448 rows, not a multiple of the block of 128; use 1",
        ),
        (
            {},
            TrainerSplit(expert_tensor=4),
            "expertTensor: 4 cuts mlp.experts.gate_proj into 64 rows, not a multiple of the block of 128; use 1 or 2",
        ),
        (
            {"block_scales": BlockScales((64, 128))},
            TrainerSplit(expert_tensor=4),
            "expertTensor: 4 cuts mlp.experts.down_proj into 64 columns, not a multiple of the block of 128; use 1 "
            "or 2",
        ),
    ],
)
def test_a_trainers_split_within_a_block_is_refused(
    sizes: dict[str, object], split: TrainerSplit, told: str | None
) -> None:
    policy = replace(FULL, **sizes)  # type: ignore[arg-type]

    try:
        check_trainer_split(policy, split)
        refusal = None
    except SplitRefused as refused:
        refusal = str(refused)

    assert refusal == (told and f"spec.trainer.parallelism.{told}")


def test_a_servers_split_within_a_block_is_refused() -> None:
    with pytest.raises(SplitRefused) as refused:
        check_split(FULL, 4)

    assert str(refused.value) == (
        "spec.rollout.parallelism.tensor: 4 cuts mlp.experts.gate_proj into 64 rows, not a multiple of the block of "
        "128; use 1 or 2"
    )


def test_a_router_that_the_server_would_quantise_has_to_be_left_out() -> None:
    policy = model("Qwen3MoeForCausalLM", dense_layers=(0,), block_scales=BlockScales((2, 2)))

    assert [*block_problems(policy)] == [
        "modules_to_not_convert does not name the router model.layers.1.mlp.gate, which the server would take for "
        "quantised; name the routers of all layers"
    ]


@pytest.mark.parametrize(
    ("skipped", "problem"),
    [
        ({"lm_head", "model.layers.0.mlp.gate", "model.embed_tokens"}, None),
        ({"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}, None),
        ({"model.layers.0.mlp.gate_proj"}, "names model.layers.0.mlp.gate_proj, but not all of"),
        ({"model.layers.1.mlp.experts.0.down_proj"}, "not all of model.layers.1.mlp.experts.routed_experts, which"),
        ({"o_proj"}, "names model.layers.0.self_attn.o_proj by a part of its name"),
        ({"model.layers.2."}, "by a part of its name"),
    ],
)
def test_what_is_left_out_is_named_in_full_and_whole(skipped: set[str], problem: str | None) -> None:
    policy = replace(FULL, block_scales=BlockScales(skipped=frozenset(skipped)))

    found = [*block_problems(policy)]

    assert [problem is not None and problem in line for line in found] == [True] * bool(problem)
