"""What Megatron's ranks hold: every element where it belongs, in every split."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Names
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.layouts.trainer import stage_layers, trainer_layout
from tests.tandem_checkpoint.layouts.models import (
    PADDING,
    Numbers,
    model,
    places_of,
    put_all,
    put_in,
    shapes_of,
    split_models,
    tensors_of,
)
from tests.tandem_checkpoint.layouts.reference import megatron_qkv

Case = tuple[PolicyConfig, TrainerSplit]
LATENT = "DeepseekV3ForCausalLM"
GROUPED = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM", "Qwen3MoeForCausalLM")


def held(policy: PolicyConfig, place: TrainerPlace, names: Names = Names.LOCAL) -> dict[str, Numbers]:
    return put_all(trainer_layout(policy, place, names), tensors_of(policy))


def names_of(policy: PolicyConfig, place: TrainerPlace, names: Names = Names.LOCAL) -> set[str]:
    return {parameter.name for parameter in trainer_layout(policy, place, names)}


@settings(max_examples=60, deadline=None)
@given(split_models(), st.integers(1, 2), st.sampled_from(Names))
def test_the_shares_of_all_ranks_are_every_element_exactly_once(case: Case, copies: int, names: Names) -> None:
    policy, split = case
    counts = {name: np.zeros(shape, int) for name, shape in shapes_of(policy).items()}

    shares = shares_of(policy, places_of(split, copies), names)

    for region in (region for share in shares for region in share):
        counts[region.tensor][tuple(map(slice, region.start, region.stop))] += 1
    assert {int(number) for counted in counts.values() for number in np.unique(counted)} == {1}


@settings(max_examples=60, deadline=None)
@given(split_models(), st.sampled_from(Names))
def test_all_ranks_hold_every_element_of_a_tensor_equally_often(case: Case, names: Names) -> None:
    policy, split = case
    held_by = {name: np.zeros(shape, int) for name, shape in shapes_of(policy).items()}

    for place in places_of(split):
        for parameter in trainer_layout(policy, place, names):
            for strip in parameter.strips:
                held_by[strip.tensor][strip.in_tensor] += 1

    assert {len(np.unique(counted)) for counted in held_by.values()} == {1}
    assert min(int(counted.min()) for counted in held_by.values()) > 0


@settings(max_examples=60, deadline=None)
@given(split_models(), st.sampled_from(Names))
def test_an_import_and_then_an_export_change_nothing(case: Case, names: Names) -> None:
    policy, split = case
    tensors, places = tensors_of(policy), places_of(split)
    out = {name: np.full(shape, PADDING, np.int32) for name, shape in shapes_of(policy).items()}

    for share, place in zip(shares_of(policy, places, names), places, strict=True):
        memory = held(policy, place, names)
        for region in share:
            for strip in region.strips:
                out[strip.tensor][strip.in_tensor] = memory[region.parameter][strip.in_parameter]

    assert all((out[name] == tensors[name]).all() for name in tensors)


@settings(max_examples=60, deadline=None)
@given(split_models(), st.sampled_from(Names))
def test_strips_cover_a_parameter_but_for_padding_rows_of_the_vocabulary(case: Case, names: Names) -> None:
    policy, split = case

    for place in places_of(split):
        for parameter in trainer_layout(policy, place, names):
            memory = put_in(parameter, tensors_of(policy))
            assert sum(strip.size for strip in parameter.strips) == (memory != PADDING).sum()
            assert (memory != PADDING).all() or parameter.shape[0] * split.tensor > policy.vocabulary


@settings(max_examples=40, deadline=None)
@given(split_models(GROUPED))
def test_query_key_and_value_go_by_group_on_every_rank(case: Case) -> None:
    policy, split = replace(case[0], num_layers=1), TrainerSplit(tensor=case[1].tensor)
    tensors = tensors_of(policy)
    query, key, value = (tensors[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv")

    for place in places_of(split):
        fused = held(policy, place)["decoder.layers.0.self_attention.linear_qkv.weight"]
        assert (fused == megatron_qkv(query, key, value, policy, place.tensor, split.tensor)).all()


@pytest.mark.parametrize("tensor", [0, 1])
def test_each_rank_holds_its_gate_above_its_up(tensor: int) -> None:
    policy = model("LlamaForCausalLM")
    gate, up = (tensors_of(policy)[f"model.layers.2.mlp.{name}_proj.weight"] for name in ("gate", "up"))

    memory = held(policy, TrainerPlace(TrainerSplit(tensor=2), tensor))["decoder.layers.2.mlp.linear_fc1.weight"]

    assert (memory == np.concatenate([np.split(gate, 2)[tensor], np.split(up, 2)[tensor]])).all()


def test_an_expert_is_known_by_its_number_among_all_and_is_cut_by_its_own_group() -> None:
    policy = model("Qwen3MoeForCausalLM")
    place = TrainerPlace(TrainerSplit(tensor=1, expert=2, expert_tensor=2), expert=1, expert_tensor=1)

    memory = held(policy, place)["decoder.layers.0.mlp.experts.local_experts.1.linear_fc2.weight"]

    down = tensors_of(policy)["model.layers.0.mlp.experts.3.down_proj.weight"]
    assert (memory == np.split(down, 2, axis=1)[1]).all()


@pytest.mark.parametrize(
    ("split", "stages"),
    [
        (TrainerSplit(pipeline=2), [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]),
        (TrainerSplit(pipeline=2, virtual_pipeline=2), [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]),
        (TrainerSplit(pipeline=3, first_stage_layers=2), [[[0, 1]], [[2, 3, 4]], [[5, 6, 7]]]),
        (TrainerSplit(pipeline=3, last_stage_layers=2), [[[0, 1, 2]], [[3, 4, 5]], [[6, 7]]]),
        (TrainerSplit(pipeline=2, first_stage_layers=3, last_stage_layers=5), [[[0, 1, 2]], [[3, 4, 5, 6, 7]]]),
        (
            TrainerSplit(pipeline=3, virtual_pipeline=2, first_stage_layers=2, last_stage_layers=2),
            [[[0], [4]], [[1, 2], [5, 6]], [[3], [7]]],
        ),
    ],
    ids=["even", "chunks", "a short first stage", "a short last stage", "both given", "uneven chunks"],
)
def test_layers_are_dealt_out_as_megatron_does(split: TrainerSplit, stages: list[list[list[int]]]) -> None:
    dealt = [
        [list(stage_layers(8, split, stage, chunk)) for chunk in range(split.virtual_pipeline)]
        for stage in range(split.pipeline)
    ]

    assert dealt == stages


def test_a_stage_counts_its_layers_from_0_and_chunks_are_told_apart() -> None:
    policy, split = model("LlamaForCausalLM"), TrainerSplit(pipeline=2, virtual_pipeline=2)
    name = "1.decoder.layers.0.mlp.linear_fc2.weight"

    memory = held(policy, TrainerPlace(split, pipeline=1))

    assert (memory[name] == tensors_of(policy)["model.layers.3.mlp.down_proj.weight"]).all()
    assert "1.output_layer.weight" in memory


def test_the_last_stage_has_a_copy_of_tied_embeddings() -> None:
    policy, split = model("LlamaForCausalLM", tied_embeddings=True), TrainerSplit(pipeline=2)
    whole = tensors_of(policy)["model.embed_tokens.weight"]

    assert (held(policy, TrainerPlace(split, pipeline=1))["output_layer.weight"] == whole).all()
    assert "output_layer.weight" not in names_of(policy, TrainerPlace())


def test_the_vocabulary_is_padded_to_whole_ranks_and_no_further() -> None:
    policy, split = model("LlamaForCausalLM", vocabulary=13), TrainerSplit(tensor=2)

    last = held(policy, TrainerPlace(split, tensor=1))["output_layer.weight"]

    assert last.shape == (7, policy.hidden)
    assert (last[-1] == PADDING).all()
    assert held(policy, TrainerPlace())["output_layer.weight"].shape == (13, policy.hidden)


def test_the_routers_bias_is_a_buffer_in_float32() -> None:
    parameters = trainer_layout(model(LATENT), TrainerPlace())

    buffers = [parameter for parameter in parameters if parameter.is_buffer]

    assert {parameter.name.split(".", 3)[3] for parameter in buffers} == {"mlp.router.expert_bias"}
    assert Counter(parameter.dtype for parameter in parameters) == {"float32": len(buffers), None: len(parameters) - 3}


def test_transformer_engine_fuses_norms_into_projections_and_groups_experts() -> None:
    names = names_of(model("Qwen3MoeForCausalLM"), TrainerPlace(), Names.TRANSFORMER_ENGINE)

    dense, sparse = "decoder.layers.1", "decoder.layers.0"
    assert {
        f"{dense}.self_attention.linear_qkv.layer_norm_weight",
        f"{dense}.mlp.linear_fc1.layer_norm_weight",
        f"{sparse}.pre_mlp_layernorm.weight",
        f"{sparse}.mlp.experts.linear_fc1.weight3",
    } <= names
    assert not {name for name in names if "input_layernorm" in name or "local_experts" in name}


def test_transformer_engine_holds_projections_down_to_a_rank_whole_and_the_local_layers_cut_them() -> None:
    policy, place = model(LATENT), TrainerPlace(TrainerSplit(tensor=2), tensor=1)
    name = "decoder.layers.0.self_attention.linear_kv_down_proj.weight"
    whole = tensors_of(policy)["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]

    assert (held(policy, place, Names.TRANSFORMER_ENGINE)[name] == whole).all()
    assert (held(policy, place)[name] == np.split(whole, 2)[1]).all()


def test_queries_without_a_low_rank_have_one_projection() -> None:
    names = names_of(model(LATENT, q_lora_rank=0), TrainerPlace())

    attention = {name for name in names if name.startswith("decoder.layers.0.self_attention.linear_q")}
    assert attention == {"decoder.layers.0.self_attention.linear_q_proj.weight"}


def test_ranks_that_hold_the_same_write_equal_shares() -> None:
    policy = model("LlamaForCausalLM", tied_embeddings=True, hidden=64, intermediate=64)

    loads = [sum(region.size for region in share) for share in shares_of(policy, places_of(TrainerSplit(), 2))]

    assert max(loads) < 1.2 * min(loads)
