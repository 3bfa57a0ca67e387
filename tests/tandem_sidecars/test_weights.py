"""Weights through a trainer's ranks: from any source into any split, and out again, to the last bit."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError
from tandem_checkpoint.disk.writing import FolderIncomplete
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.commands import SaveStep
from tandem_checkpoint.segments.manifest import BrokenSegment, manifest_of_pieces, verify
from tandem_checkpoint.segments.store import map_for_reading, map_for_writing
from tandem_sidecars.megatron.save import FolderSaver
from tandem_sidecars.megatron.source import open_source
from tandem_sidecars.megatron.weights import check_names
from tests.tandem_checkpoint.layouts.models import model, split_models
from tests.tandem_sidecars.bare_ranks import Ranks, are_equal, pieces_of, weights_in, write_folder

Case = tuple[PolicyConfig, TrainerSplit]
LATENT = "DeepseekV3ForCausalLM"
SPLIT = TrainerSplit(tensor=2, pipeline=2, expert=2)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split_models())
def test_from_a_folder_through_a_segment_into_another_split_and_back_to_a_folder(tmp_path: Path, case: Case) -> None:
    policy, split = case
    origin = write_folder(tmp_path / "origin", policy)

    exported = Ranks(policy, split).load(origin).export(tmp_path)
    whole = Ranks(policy, TrainerSplit()).load(exported)
    num_bytes = Ranks(policy, split).load(exported).save(tmp_path / "out", tmp_path / "origin")

    manifest_of_pieces(whole.layout, 0, pieces_of(exported), "segment")
    assert are_equal(weights_in(tmp_path / "out"), weights_in(origin.path))
    assert num_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert are_equal(whole.parameters[0], Ranks(policy, TrainerSplit()).load(origin).parameters[0])


def test_a_segment_is_the_same_whichever_split_writes_it(tmp_path: Path) -> None:
    policy = model(LATENT)
    origin = write_folder(tmp_path / "origin", policy)
    segments = []
    for split in (TrainerSplit(), SPLIT):
        source = Ranks(policy, split).load(origin).export(tmp_path)
        segments.append(Path(source.path).read_bytes())

    assert segments[0] == segments[1]


def test_a_bfloat16_segment_of_a_float32_folder_is_rounded_but_for_the_routers_bias(tmp_path: Path) -> None:
    policy = model(LATENT)
    origin = write_folder(tmp_path / "origin", policy)

    Ranks(policy, SPLIT, torch.bfloat16).load(origin).save(tmp_path / "out", tmp_path / "origin")

    wanted = {
        name: tensor if "e_score" in name else tensor.bfloat16() for name, tensor in weights_in(origin.path).items()
    }
    assert are_equal(weights_in(tmp_path / "out"), wanted)


def test_without_a_split_each_tensor_is_one_piece_of_one_run(tmp_path: Path) -> None:
    policy = model("Qwen2ForCausalLM")
    ranks = Ranks(policy, TrainerSplit()).load(write_folder(tmp_path / "origin", policy))

    pieces = pieces_of(ranks.export(tmp_path))

    placed = [item for parameter in ranks.layout.parameters for item in parameter.tensors]
    assert {(piece.tensor, piece.offset_bytes, piece.num_bytes, piece.num_runs) for piece in pieces} == {
        (item.tensor.name, item.offset_bytes, item.num_bytes, 1) for item in placed
    }
    assert len(pieces) == len(placed)


def test_columns_of_a_rank_are_runs_as_far_apart_as_rows(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM", num_layers=1)
    ranks = Ranks(policy, TrainerSplit(tensor=2)).load(write_folder(tmp_path / "origin", policy))

    halves = [piece for piece in pieces_of(ranks.export(tmp_path)) if "down_proj" in piece.tensor]

    row_bytes = policy.intermediate * 4
    assert [(half.num_runs, half.stride_bytes, half.run_bytes) for half in halves] == [
        (policy.hidden, row_bytes, row_bytes // 2)
    ] * 2


def test_one_wrong_byte_between_the_runs_of_others_is_found(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM", num_layers=1)
    source = Ranks(policy, TrainerSplit(tensor=2)).load(write_folder(tmp_path / "origin", policy)).export(tmp_path)
    second = next(piece for piece in pieces_of(source) if "down_proj" in piece.tensor and piece.start[1])
    with map_for_writing(Path(source.path)) as mapped:
        mapped[second.stop_bytes - 1] ^= 1

    with map_for_reading(Path(source.path)) as mapped:
        with pytest.raises(BrokenSegment, match=r"checksum of model\.layers\.0\.mlp\.down_proj\.weight differs"):
            verify(mapped, [second])
        verify(mapped, [piece for piece in pieces_of(source) if piece != second])


def test_a_rank_does_not_mind_a_wrong_byte_of_another_stage(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM")
    ranks = Ranks(policy, TrainerSplit(pipeline=2)).load(write_folder(tmp_path / "origin", policy))
    source = ranks.export(tmp_path)
    head = next(piece for piece in pieces_of(source) if piece.tensor == "lm_head.weight")
    with map_for_writing(Path(source.path)) as mapped:
        mapped[head.offset_bytes] ^= 1

    open_source(source, ranks.layout, ranks.layouts[0])
    with pytest.raises(BrokenSegment, match=r"checksum of lm_head\.weight differs"):
        open_source(source, ranks.layout, ranks.layouts[1])


def test_padding_rows_are_zero_after_a_load(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM", vocabulary=13)
    origin = write_folder(tmp_path / "origin", policy)

    last = Ranks(policy, TrainerSplit(tensor=2)).load(origin).parameters[1]

    assert not last["output_layer.weight"][-1].any()


def test_a_folder_is_not_complete_without_every_ranks_share(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM")
    ranks = Ranks(policy, TrainerSplit(tensor=2)).load(write_folder(tmp_path / "origin", policy))
    shares = shares_of(policy, ranks.places)
    saver = FolderSaver(ranks.layout, tmp_path / "origin", shares, 0)
    saver.save(tmp_path / "out", SaveStep.PREPARE, {})
    saver.save(tmp_path / "out", SaveStep.WRITE, ranks.parameters[0])

    with pytest.raises(FolderIncomplete):
        saver.save(tmp_path / "out", SaveStep.COMMIT, {})

    assert not (tmp_path / "out").exists()


def test_a_tensor_that_a_folder_lacks_is_named_before_anything_changes(tmp_path: Path) -> None:
    tied, untied = (model("LlamaForCausalLM", tied_embeddings=tied) for tied in (True, False))
    ranks = Ranks(untied, TrainerSplit())

    with pytest.raises(PolicyFolderError, match=r"lacks the tensor lm_head\.weight"):
        ranks.load(write_folder(tmp_path / "origin", tied))

    assert all(bool((parameter == 7.0).all()) for parameter in ranks.parameters[0].values())


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    origin = write_folder(tmp_path / "origin", model("LlamaForCausalLM", intermediate=12))

    with pytest.raises(
        PolicyFolderError, match=r"gate_proj\.weight is \(12, 6\), the policy's config\.json says \(8, 6\)"
    ):
        Ranks(model("LlamaForCausalLM"), TrainerSplit()).load(origin)


def test_fp8_without_its_scales_is_not_taken_for_weights(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM")
    origin = write_folder(tmp_path / "origin", policy, torch.float8_e4m3fn)

    with pytest.raises(PolicyFolderError, match=r"is float8_e4m3fn; convert it to bfloat16, scales multiplied in"):
        Ranks(policy, TrainerSplit()).load(origin)


def test_a_model_with_other_parameters_than_the_table_says_is_a_mistake_of_ours() -> None:
    local = trainer_layout(model(LATENT), TrainerPlace())
    parameters = {item.name: torch.empty(item.shape) for item in local if not item.is_buffer}

    with pytest.raises(ValueError, match=r"differs from the model in \['decoder\.layers\.1\.mlp\.router\.expert_bias'"):
        check_names(parameters, local)
