"""What ranks tell of a policy that is handed over in FP8: fingerprints of what an export makes of their weights."""

from dataclasses import replace

import pytest
import torch

from tandem_api.weights import BoxFingerprint
from tandem_checkpoint.architectures.block_scales import SCALES, BlockScales
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.commands import Fingerprint
from tandem_checkpoint.segments.holdings import holding_of
from tandem_checkpoint.segments.layout import segment_layout
from tandem_sidecars.block_scales import quantise
from tandem_sidecars.fingerprint import fingerprint_of
from tandem_sidecars.megatron.examination import Examiner
from tests.tandem_checkpoint.layouts.models import model, places_of, shapes_of

PLAIN = model(
    "Qwen2ForCausalLM", num_layers=2, hidden=256, intermediate=512, num_heads=2, num_key_value_heads=2, head_dim=128
)
POLICY = replace(PLAIN, block_scales=BlockScales())
LAYOUT = segment_layout(POLICY, "bfloat16")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(3)
    shapes = shapes_of(PLAIN).items()
    return {name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes}


def handed_over(tensors: Tensors) -> dict[str, int]:
    """Return the fingerprints of all tensors as a segment has them."""
    found: Tensors = {}
    for info in LAYOUT.tensors:
        if info.dtype == "float8_e4m3fn":
            found[info.name], found[info.name + SCALES] = quantise(tensors[info.name], BlockScales())
        elif info.name not in found:
            found[info.name] = tensors[info.name]
    return {name: fingerprint_of(tensor, (0,) * tensor.dim(), tensor.dtype) for name, tensor in found.items()}


def parameter_of(item: LocalParameter, tensors: Tensors) -> torch.Tensor:
    parameter = torch.zeros(item.shape, dtype=torch.bfloat16)
    for strip in item.strips:
        parameter[strip.in_parameter] = tensors[strip.tensor][strip.in_tensor]
    return parameter


def told(split: TrainerSplit, tensors: Tensors) -> tuple[BoxFingerprint, ...]:
    """Return what all ranks of a pod tell."""
    boxes: tuple[BoxFingerprint, ...] = ()
    places = places_of(split)
    for rank, place in enumerate(places):
        local = trainer_layout(POLICY, place)
        examiner = Examiner(LAYOUT, POLICY.block_scales, local, rank, len(places))
        boxes += examiner.examine(Fingerprint(), {item.name: parameter_of(item, tensors) for item in local}).boxes
    return boxes


@pytest.mark.parametrize("split", [TrainerSplit(), TrainerSplit(tensor=2, pipeline=2)], ids=["one rank", "four"])
def test_matrices_and_scales_add_up_to_those_of_whole_matrices(split: TrainerSplit, tensors: Tensors) -> None:
    found = holding_of("the trainer", told(split, tensors), LAYOUT.tensors)

    assert found.mistakes == ()
    assert found.fingerprints == handed_over(tensors)
