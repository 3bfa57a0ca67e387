"""Mistakes that public converters made, planted on purpose: what a rank holds comes out wrong, and is seen to.

The numbers are those of the list in docs/weights.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tandem_checkpoint.architectures import ARCHITECTURES, UnsupportedArchitecture, architecture_of
from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError
from tandem_checkpoint.architectures.table import Architecture, Part, Rule, Split
from tandem_checkpoint.disk.index import read_index
from tandem_checkpoint.layouts import trainer
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.segments.layout import segment_layout
from tests.tandem_checkpoint.layouts.models import Numbers, model, places_of, put_all, shapes_of, tensors_of

Layouts = Sequence[tuple[LocalParameter, ...]]
LLAMA, SPARSE, LATENT = "LlamaForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM"
ALONE = TrainerSplit()


def layouts_of(policy: PolicyConfig, split: TrainerSplit) -> Layouts:
    return [trainer_layout(policy, place) for place in places_of(split)]


class Pod:
    """Ranks that hold a policy as they should."""

    def __init__(self, policy: PolicyConfig, split: TrainerSplit = ALONE) -> None:
        self.policy = policy
        self.split = split
        self.tensors = tensors_of(policy)
        self.memories = [put_all(layout, self.tensors) for layout in layouts_of(policy, split)]

    def found_wrong(self, layouts: Layouts) -> set[str]:
        """Return what is wrong with layouts: parameters that are no such, tensors that come out otherwise."""
        wrong: set[str] = set()
        out: dict[str, Numbers] = {name: np.full(tensor.shape, -1, np.int32) for name, tensor in self.tensors.items()}
        for memory, layout in zip(self.memories, layouts, strict=True):
            shapes = {name: held.shape for name, held in memory.items()}
            wrong |= {name for name, _ in shapes.items() ^ {item.name: item.shape for item in layout}.items()}
            for item in layout:
                for strip in item.strips if item.name not in wrong else ():
                    out[strip.tensor][strip.in_tensor] = memory[item.name][strip.in_parameter]
        return wrong | {name for name, tensor in self.tensors.items() if not (out[name] == tensor).all()}

    def found_wrong_now(self) -> set[str]:
        return self.found_wrong(layouts_of(self.policy, self.split))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Rule], Rule | None]], None]:
    """Change the rules of a family's table; None drops one."""

    def change(family: str, made_wrong: Callable[[Rule], Rule | None]) -> None:
        table: Architecture = ARCHITECTURES[family]
        rules = tuple(wrong for rule in table.layer_rules if (wrong := made_wrong(rule)) is not None)
        monkeypatch.setitem(ARCHITECTURES, family, replace(table, layer_rules=rules))

    return change


Plant = Callable[[str, Callable[[Rule], Rule | None]], None]


@pytest.mark.parametrize("family", [LLAMA, SPARSE, LATENT])
def test_nothing_is_wrong_with_the_tables_as_they_are(family: str) -> None:
    assert Pod(model(family), TrainerSplit(tensor=2, pipeline=2)).found_wrong_now() == set()


def test_1_gate_and_up_of_tensor_parallel_ranks_joined_plainly() -> None:
    pod = Pod(model(LLAMA, num_layers=1), TrainerSplit(tensor=2))
    (whole,) = layouts_of(pod.policy, ALONE)
    fused = next(item for item in whole if item.name.endswith("linear_fc1.weight"))
    planted = [
        tuple(
            replace(item, strips=(replace(strip, start=(0, 0)),)) if item.name == fused.name else item
            for item in layout
        )
        for layout, strip in zip(layouts_of(pod.policy, pod.split), fused.strips, strict=True)
    ]

    wrong = pod.found_wrong(planted)

    assert wrong == {f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up")}


def test_2_query_key_and_value_as_three_blocks(plant: Plant) -> None:
    pod = Pod(model(LLAMA, num_layers=1))

    plant(LLAMA, lambda rule: replace(rule, split=Split.HALVES) if rule.split is Split.QKV else rule)

    assert pod.found_wrong_now() == {f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"}


def test_3_a_head_as_hidden_over_heads() -> None:
    pod = Pod(model("Qwen3ForCausalLM", num_layers=1, hidden=16, num_heads=4, head_dim=8))
    wrong_policy = replace(pod.policy, head_dim=pod.policy.hidden // pod.policy.num_heads)

    wrong = pod.found_wrong(layouts_of(wrong_policy, ALONE))

    assert "decoder.layers.0.self_attention.linear_qkv.weight" in wrong


def test_4_the_copy_of_tied_embeddings_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(model(LLAMA, tied_embeddings=True), TrainerSplit(pipeline=2))

    monkeypatch.setattr(trainer, "TIED_COPY", "output_layers.weight")

    assert pod.found_wrong_now() == {"output_layer.weight", "output_layers.weight"}


def test_5_padding_rows_leaked_into_the_export() -> None:
    pod = Pod(model(LLAMA, vocabulary=13), TrainerSplit(tensor=2))
    padded = replace(pod.policy, vocabulary=14)

    names = {info.name for info in segment_layout(padded, "float32").tensors if info.shape != shape_in(pod, info.name)}

    assert names == {"model.embed_tokens.weight", "lm_head.weight"}
    with pytest.raises(ValueError, match="could not broadcast"):
        pod.found_wrong(layouts_of(padded, pod.split))


def shape_in(pod: Pod, name: str) -> tuple[int, ...]:
    return shapes_of(pod.policy)[name]


@pytest.mark.parametrize(
    "split",
    [
        TrainerSplit(pipeline=2, first_stage_layers=1),
        TrainerSplit(pipeline=2, last_stage_layers=1),
        TrainerSplit(pipeline=2, virtual_pipeline=2),
    ],
    ids=["a short first stage", "a short last stage", "chunks"],
)
def test_6_layers_counted_as_if_stages_were_even(split: TrainerSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(model(LLAMA), split)

    def even(num_layers: int, split: TrainerSplit, stage: int, chunk: int = 0) -> range:
        length = num_layers // split.pipeline // split.virtual_pipeline
        first = (stage * split.virtual_pipeline + chunk) * length
        return range(first, first + length)

    monkeypatch.setattr(trainer, "stage_layers", even)

    assert pod.found_wrong_now()


def test_6_a_layer_known_by_its_number_on_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(model(LLAMA), TrainerSplit(pipeline=2))

    monkeypatch.setattr(trainer, "stage_layers", lambda num_layers, split, stage, chunk=0: range(2))

    assert {name for name in pod.found_wrong_now() if name.startswith("model.layers.3.")}


def test_7_an_expert_known_by_its_number_on_the_rank() -> None:
    pod = Pod(model(SPARSE, num_layers=1, dense_layers=()), TrainerSplit(expert=2))
    first, _ = layouts_of(pod.policy, pod.split)

    wrong = pod.found_wrong([first, first])

    assert {name.split(".")[5] for name in wrong} == {"0", "1", "2", "3"}


def test_7_experts_cut_by_the_dense_layers_group() -> None:
    pod = Pod(model(SPARSE, num_layers=1, dense_layers=()), TrainerSplit(tensor=2, expert=2))
    taken_for_one_group = [
        trainer_layout(
            pod.policy, replace(place, split=replace(pod.split, expert_tensor=2), expert_tensor=place.tensor)
        )
        for place in places_of(pod.split)
    ]

    wrong = pod.found_wrong(taken_for_one_group)

    assert "decoder.layers.0.mlp.experts.local_experts.0.linear_fc1.weight" in wrong


def test_8_the_routers_bias_dropped(plant: Plant) -> None:
    pod = Pod(model(LATENT, num_layers=2))

    plant(LATENT, lambda rule: None if rule.is_buffer else rule)

    assert pod.found_wrong_now() == {
        "decoder.layers.1.mlp.router.expert_bias",
        "model.layers.1.mlp.gate.e_score_correction_bias",
    }


def test_8_the_routers_bias_rounded(plant: Plant) -> None:
    policy = model(LATENT, num_layers=2)
    right = {info.name: info.dtype for info in segment_layout(policy, "bfloat16").tensors}

    plant(LATENT, lambda rule: replace(rule, dtype=None) if rule.is_buffer else rule)

    now = {info.name: info.dtype for info in segment_layout(policy, "bfloat16").tensors}
    assert right.items() ^ now.items() == {
        ("model.layers.1.mlp.gate.e_score_correction_bias", dtype) for dtype in ("float32", "bfloat16")
    }


def test_12_experts_by_their_fused_names_in_memory_instead_of_those_on_disk(plant: Plant, tmp_path: Path) -> None:
    policy = model(SPARSE, num_layers=1, dense_layers=())
    save_file(dict(tensors_of(policy)), tmp_path / "model.safetensors")

    def fused(rule: Rule) -> Rule:
        renamed = tuple(
            Part(part.name.replace("experts.{expert}.gate_proj.weight", "experts.gate_up_proj"), *part.axes)
            for part in rule.parts
        )
        return replace(rule, parts=renamed) if rule.is_expert else rule

    plant(SPARSE, fused)

    names = [name for rule in architecture_of(SPARSE).rules(policy) for name, _ in rule.tensors(policy)]
    index = read_index(tmp_path)
    with pytest.raises(PolicyFolderError, match=r"lacks the tensor model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        [index[name] for name in names]


def test_15_a_family_whose_layout_nobody_declares_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="is Qwen3NextForCausalLM, which has no table; use one of Deep"):
        architecture_of("Qwen3NextForCausalLM")


def test_16_a_router_that_no_list_leaves_out_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = model(LATENT, block_scales=BlockScales())
    right = {info.name: info.dtype for info in segment_layout(policy, "bfloat16").tensors}
    routers = {f"model.layers.{layer}.mlp.gate.weight" for layer in range(1, 4)}
    monkeypatch.setattr(Rule, "is_projection", property(is_matrix))

    now = {info.name: info.dtype for info in segment_layout(policy, "bfloat16").tensors}
    assert {right[name] for name in routers} == {"bfloat16"}
    assert {name for name, dtype in now.items() if right.get(name, dtype) != dtype} == routers


def is_matrix(rule: Rule) -> bool:
    """What a list of names leaves to be quantised that names no router."""
    return rule.stage is None and rule.parts[0].columns is not None
