"""Policies in FP8 with block scales through a trainer's ranks: into plain numbers, and out again to the last bit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from tandem_checkpoint.architectures.block_scales import SCALES, BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.scales import quantised_tensors
from tandem_checkpoint.process.commands import FolderSource, SegmentSource
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import BrokenSegment, manifest_of_pieces, verify
from tandem_checkpoint.segments.store import map_for_reading, map_for_writing
from tests.tandem_checkpoint.layouts.models import model, quantised_models
from tests.tandem_sidecars.bare_ranks import (
    Parameters,
    Ranks,
    are_equal,
    pieces_of,
    weights_in,
    write_folder,
)
from tests.tandem_sidecars.fp8_reference import decode, quantised

Case = tuple[PolicyConfig, TrainerSplit]
BLOCKS = BlockScales((2, 2))
SPLIT = TrainerSplit(tensor=2, pipeline=2, expert=2)
FORMAT = torch.float8_e4m3fn
random_cases = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def plain_folder(folder: Path, policy: PolicyConfig, dtype: torch.dtype = torch.float32) -> FolderSource:
    """Write random numbers that are not quantised, although the policy says how they are to be."""
    return write_folder(folder, replace(policy, block_scales=None), dtype)


def expected(weights: Mapping[str, torch.Tensor], policy: PolicyConfig) -> Parameters:
    """Return what a policy's plain weights are once they are handed over, by the reference."""
    scales, chosen = policy.block_scales, quantised_tensors(policy)
    assert scales is not None
    made: Parameters = {}
    for name, tensor in weights.items():
        made[name] = tensor
        if name in chosen:
            codes, factors = quantised(tensor.float().numpy(), scales.block, scales.has_powers_of_two)
            made[name], made[name + SCALES] = torch.from_numpy(codes).view(FORMAT), torch.from_numpy(factors)
    return made


def tensors_in(source: SegmentSource, layout: SegmentLayout) -> Parameters:
    segment = torch.frombuffer(map_for_reading(Path(source.path)), dtype=torch.uint8)
    return {
        placed.tensor.name: segment[placed.offset_bytes : placed.offset_bytes + placed.num_bytes]
        .view(getattr(torch, placed.tensor.dtype))
        .view(placed.tensor.shape)
        for parameter in layout.parameters
        for placed in parameter.tensors
    }


def bits(tensors: Mapping[str, torch.Tensor]) -> Parameters:
    """Return tensors as bytes: torch compares no FP8."""
    return {name: tensor.contiguous().view(torch.uint8) for name, tensor in tensors.items()}


@random_cases
@given(quantised_models())
def test_a_segment_holds_what_the_reference_makes_of_whole_tensors(tmp_path: Path, case: Case) -> None:
    policy, split = case
    origin = plain_folder(tmp_path / "origin", policy)
    ranks = Ranks(policy, split).load(origin)

    exported = ranks.export(tmp_path)

    manifest_of_pieces(ranks.layout, 0, pieces_of(exported), exported.path)
    verify(map_for_reading(Path(exported.path)), pieces_of(exported))
    assert are_equal(bits(tensors_in(exported, ranks.layout)), bits(expected(weights_in(origin.path), policy)))


@random_cases
@given(quantised_models())
def test_export_import_export_is_equal_to_the_last_bit(tmp_path: Path, case: Case) -> None:
    policy, split = case
    ranks = Ranks(policy, split).load(plain_folder(tmp_path / "origin", policy))
    first = ranks.export(tmp_path)
    before = bits({name: tensor.clone() for name, tensor in tensors_in(first, ranks.layout).items()})

    whole = Ranks(policy, TrainerSplit()).load(first)
    again = Ranks(policy, split).load(first).export(tmp_path)

    assert are_equal(bits(tensors_in(again, ranks.layout)), before)
    assert are_equal(bits(tensors_in(whole.export(tmp_path), whole.layout)), before)


@random_cases
@given(quantised_models())
def test_a_folder_in_fp8_comes_back_from_any_split_as_it_was(tmp_path: Path, case: Case) -> None:
    policy, split = case
    plain = plain_folder(tmp_path / "origin", policy)
    Ranks(policy, split).load(plain).save(tmp_path / "first", tmp_path / "origin")

    ranks = Ranks(policy, split).load(FolderSource(path=str(tmp_path / "first")))
    ranks.save(tmp_path / "second", tmp_path / "first")

    first, second = weights_in(tmp_path / "first"), weights_in(tmp_path / "second")
    assert are_equal(bits(first), bits(expected(weights_in(plain.path), policy)))
    assert are_equal(bits(second), bits(first))


def test_numbers_in_bfloat16_come_back_to_the_last_bit_too(tmp_path: Path) -> None:
    policy = model("DeepseekV3ForCausalLM", block_scales=BLOCKS)
    ranks = Ranks(policy, SPLIT, torch.bfloat16).load(plain_folder(tmp_path / "origin", policy, torch.bfloat16))
    first = ranks.export(tmp_path)
    before = bits({name: tensor.clone() for name, tensor in tensors_in(first, ranks.layout).items()})

    again = Ranks(policy, SPLIT, torch.bfloat16).load(first).export(tmp_path)

    assert are_equal(bits(tensors_in(again, ranks.layout)), before)


def test_a_written_folder_is_within_half_a_step_of_the_format_when_others_dequantise_it(tmp_path: Path) -> None:
    policy = model("DeepseekV3ForCausalLM", block_scales=BLOCKS)
    plain = plain_folder(tmp_path / "origin", policy)

    Ranks(policy, SPLIT).load(plain).save(tmp_path / "out", tmp_path / "origin")

    written, before = load_file(tmp_path / "out" / "model.safetensors"), weights_in(plain.path)
    for name in quantised_tensors(policy):
        scales = np.kron(written[name + SCALES].numpy(), np.ones(BLOCKS.block, np.float32))
        rows, columns = before[name].shape
        scales = scales[:rows, :columns]
        found = decode(written[name].view(torch.uint8).numpy()) * scales
        numbers = before[name].numpy()
        # Half of the last of three bits; numbers below 2⁻⁶ of the largest scale's unit have the smallest step
        assert (np.abs(found - numbers) <= np.maximum(np.abs(numbers) / 16, scales * 2.0**-10) * 1.0001).all(), name


def test_a_folder_that_another_quantised_is_written_with_the_same_numbers(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM", block_scales=BLOCKS)
    plain = weights_in(plain_folder(tmp_path / "origin", policy).path)
    others = expected(plain, policy)
    for name in quantised_tensors(policy):
        others[name + SCALES] = others[name + SCALES] * 1.5  # no number is the format's largest there
        others[name] = (others[name].float() / 1.5).to(FORMAT)
    save_file(others, tmp_path / "origin" / "model.safetensors")

    Ranks(policy, TrainerSplit(tensor=2)).load(FolderSource(path=str(tmp_path / "origin"))).save(
        tmp_path / "out", tmp_path / "origin"
    )

    written = weights_in(tmp_path / "out")
    largest = max(
        float((numbers(written, name) - numbers(others, name)).abs().max() / numbers(others, name).abs().max())
        for name in quantised_tensors(policy)
    )
    assert largest <= 1 / 16


def numbers(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a matrix's numbers; its scales are spread over blocks of 2 by 2."""
    scales = tensors[name + SCALES].repeat_interleave(2, 0).repeat_interleave(2, 1)
    matrix = tensors[name].float()
    return matrix * scales[: matrix.shape[0], : matrix.shape[1]]


def test_what_is_left_out_is_handed_over_as_it_is(tmp_path: Path) -> None:
    left_out = frozenset({"model.layers.0.self_attn.o_proj"})
    policy = model("Qwen3ForCausalLM", block_scales=replace(BLOCKS, skipped=left_out))
    origin = plain_folder(tmp_path / "origin", policy)
    ranks = Ranks(policy, TrainerSplit(tensor=2)).load(origin)

    tensors = tensors_in(ranks.export(tmp_path), ranks.layout)

    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(tensors[name], weights_in(origin.path)[name])
    assert name + SCALES not in tensors
    assert tensors["model.layers.1.self_attn.o_proj.weight"].dtype is FORMAT


@pytest.mark.parametrize("kind", ["", SCALES])
def test_a_byte_that_was_changed_is_found(tmp_path: Path, kind: str) -> None:
    policy = model("DeepseekV3ForCausalLM", block_scales=BLOCKS)
    exported = Ranks(policy, SPLIT).load(plain_folder(tmp_path / "origin", policy)).export(tmp_path)
    name = "model.layers.2.mlp.experts.1.down_proj.weight" + kind
    piece = next(piece for piece in pieces_of(exported) if piece.tensor == name)

    map_for_writing(Path(exported.path))[piece.offset_bytes] ^= 1

    with pytest.raises(BrokenSegment, match="checksum of"):
        Ranks(policy, TrainerSplit()).load(exported)


def test_scales_that_are_missing_are_told(tmp_path: Path) -> None:
    policy = model("LlamaForCausalLM", block_scales=BLOCKS)
    origin = plain_folder(tmp_path / "origin", policy)
    weights = expected(weights_in(origin.path), policy)
    del weights["model.layers.1.mlp.up_proj.weight" + SCALES]
    save_file(weights, tmp_path / "origin" / "model.safetensors")

    with pytest.raises(PolicyFolderError, match=r"up_proj\.weight is float8_e4m3fn; convert it to bfloat16"):
        Ranks(policy, TrainerSplit()).load(origin)
