"""Putting a generation into a model: all of it is compared before a byte is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter, Strip
from tandem_checkpoint.segments.manifest import BrokenSegment, Manifest
from tandem_checkpoint.segments.slices import RankParameter, rank_parameters
from tandem_checkpoint.segments.store import SegmentError, map_for_writing
from tandem_sidecars.vllm.binding import Fit, Segments, fit
from tests.families.policies import FAMILIES, MIXTURES, write_policy
from tests.tandem_sidecars.generations import Generation, write_generation
from tests.tandem_sidecars.training import weights_in

NORM = "model.norm.weight"
FUSED = "model.layers.0.mlp.gate_up_proj.weight"
CUT = "model.layers.0.self_attn.o_proj.weight"
"""Cut by columns."""
BIAS = "model.layers.0.self_attn.qkv_proj.bias"


class Model(nn.Module):
    """Parameters of a server, without the server."""

    def __init__(self, wanted: tuple[RankParameter, ...]) -> None:
        super().__init__()
        self.by_name = {item.name: nn.Parameter(torch.full(item.shape, -1.0), requires_grad=False) for item in wanted}

    def named_parameters(self, *_: object, **__: object) -> list[tuple[str, nn.Parameter]]:  # type: ignore[override]
        return list(self.by_name.items())


@pytest.fixture
def generation(untied_policy: Path, tmp_path: Path) -> Generation:
    return write_generation(untied_policy, weights_in(untied_policy), tmp_path)


def model_of(policy: Path, generation: Generation, rank: int = 0, num_ranks: int = 1) -> Model:
    return Model(rank_parameters(generation.layout, read_policy_config(policy), rank, num_ranks))


def manifest_of(generation: Generation) -> Manifest:
    return Manifest.model_validate_json(generation.manifest.read_text())


def fitted(policy: Path, generation: Generation, model: Model, rank: int = 0, num_ranks: int = 1) -> Fit:
    return fit(model, manifest_of(generation), policy, Segments(), ServerPlace(num_ranks, rank))


def expected(policy: Path) -> torch.Tensor:
    tensors = weights_in(policy)
    return torch.cat([tensors[f"model.layers.0.mlp.{part}_proj.weight"] for part in ("gate", "up")])


def test_a_copy_is_the_models_own(untied_policy: Path, generation: Generation) -> None:
    model = model_of(untied_policy, generation)

    fitted(untied_policy, generation, model).copy()
    with map_for_writing(generation.segment) as mapped:
        mapped[:] = bytes(len(mapped))

    assert torch.equal(model.by_name[FUSED], expected(untied_policy))


def test_a_pointed_model_reads_the_segment_itself(untied_policy: Path, generation: Generation) -> None:
    model = model_of(untied_policy, generation)
    fitting = fitted(untied_policy, generation, model)

    fitting.point()

    assert fitting.can_point
    assert torch.equal(model.by_name[FUSED], expected(untied_policy))
    with map_for_writing(generation.segment) as mapped:
        mapped[:] = bytes(len(mapped))
    assert not model.by_name[FUSED].any()


def test_a_rank_gets_its_rows_of_each_tensor(untied_policy: Path, generation: Generation) -> None:
    model = model_of(untied_policy, generation, rank=1, num_ranks=2)
    fitting = fitted(untied_policy, generation, model, rank=1, num_ranks=2)

    fitting.copy()

    assert torch.equal(model.by_name[FUSED], second_rows(untied_policy))


def second_rows(policy: Path) -> torch.Tensor:
    """Return what the second of two ranks holds of the fused projection."""
    gate, up = expected(policy).chunk(2)
    return torch.cat([gate.chunk(2)[1], up.chunk(2)[1]])


def test_a_rank_reads_the_segment_itself_though_its_rows_lie_apart(untied_policy: Path, generation: Generation) -> None:
    model = model_of(untied_policy, generation, rank=1, num_ranks=2)

    fitted(untied_policy, generation, model, rank=1, num_ranks=2).point()

    assert torch.equal(model.by_name[FUSED], second_rows(untied_policy))
    assert torch.equal(model.by_name[CUT], weights_in(untied_policy)[CUT].chunk(2, dim=1)[1])
    assert torch.equal(model.by_name[BIAS], second_biases(untied_policy))
    with map_for_writing(generation.segment) as mapped:
        mapped[:] = bytes(len(mapped))
    assert not model.by_name[FUSED].any()
    assert not model.by_name[CUT].any()


def second_biases(policy: Path) -> torch.Tensor:
    """Return what the second of two ranks holds of the fused biases, which are less than a page each."""
    tensors = weights_in(policy)
    return torch.cat([tensors[f"model.layers.0.self_attn.{part}_proj.bias"].chunk(2)[1] for part in "qkv"])


def test_a_model_that_reads_a_segment_fits_the_next_one(untied_policy: Path, generation: Generation) -> None:
    model = model_of(untied_policy, generation, rank=1, num_ranks=2)
    fitted(untied_policy, generation, model, rank=1, num_ranks=2).point()

    fitted(untied_policy, generation, model, rank=1, num_ranks=2).point()

    assert torch.equal(model.by_name[FUSED], second_rows(untied_policy))


def _emptied(model: Model) -> None:
    model.by_name[NORM] = nn.Parameter(torch.empty(0), requires_grad=False)


def _freed(model: Model) -> None:
    model.by_name[NORM].untyped_storage().resize_(0)


def _transposed(model: Model) -> None:
    model.by_name[FUSED].data = torch.zeros(model.by_name[FUSED].shape[::-1]).T


def _of_another_format(model: Model) -> None:
    model.by_name[NORM].data = model.by_name[NORM].data.bfloat16()


def _renamed(model: Model) -> None:
    model.by_name["model.norm.scale"] = model.by_name.pop(NORM)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_emptied, r"model\.norm\.weight is \(0,\) torch\.float32 in the server, \(128,\) torch\.float32"),
        (_freed, r"model\.norm\.weight has no plain memory in the server; it was repacked or freed"),
        (_transposed, r"gate_up_proj\.weight has no plain memory in the server"),
        (_of_another_format, r"model\.norm\.weight is \(128,\) torch\.bfloat16 in the server"),
        (_renamed, r"differ in their parameters: model\.norm\.scale, model\.norm\.weight"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    untied_policy: Path, generation: Generation, spoil: Callable[[Model], None], reason: str
) -> None:
    model = model_of(untied_policy, generation)
    spoil(model)

    with pytest.raises(BrokenSegment, match=reason):
        fitted(untied_policy, generation, model)

    assert (model.by_name["model.embed_tokens.weight"] == -1.0).all()


def test_a_manifest_of_other_places_is_refused(untied_policy: Path, generation: Generation) -> None:
    manifest = manifest_of(generation)
    first, *others = manifest.parameters
    moved = manifest.model_copy(
        update={"parameters": (first.model_copy(update={"offset_bytes": 64}), *others)},
    )

    with pytest.raises(BrokenSegment, match=r"at byte 0 for the server's policy, .* at byte 64 in the segment"):
        fit(model_of(untied_policy, generation), moved, untied_policy, Segments())


def test_a_segment_that_is_too_short_is_refused(untied_policy: Path, generation: Generation) -> None:
    with generation.segment.open("r+b") as file:
        file.truncate(4096)

    with pytest.raises(BrokenSegment, match=r"weights-0\.segment has 4096 bytes instead of"):
        fitted(untied_policy, generation, model_of(untied_policy, generation))


def test_a_segment_that_was_made_anew_is_mapped_anew(untied_policy: Path, generation: Generation) -> None:
    segments = Segments()
    before = segments.bytes_of(generation.segment)
    assert segments.bytes_of(generation.segment) is before
    data = generation.segment.read_bytes()
    generation.segment.unlink()
    with pytest.raises(SegmentError, match="is missing"):
        segments.bytes_of(generation.segment)

    generation.segment.write_bytes(data)

    assert segments.bytes_of(generation.segment) is not before


def test_what_fits_tells_its_generation(untied_policy: Path, tmp_path: Path) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path, number=7)

    assert fitted(untied_policy, generation, model_of(untied_policy, generation)).generation == 7


PLACES = {
    "whole": ServerPlace(),
    "cut": ServerPlace(num_tensor=2, tensor=1),
    "dealt out": ServerPlace(num_tensor=2, tensor=1, has_expert_parallel=True),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_strip_of_every_family_gets_its_tensors_box(
    families: dict[str, Generation], policy_of: dict[str, Path], family: str, place: str
) -> None:
    policy, generation = policy_of[family], families[family]
    layout = server_layout(read_policy_config(policy), PLACES[place])
    pointed, copied = blank(layout), blank(layout)

    fit(pointed, manifest_of(generation), policy, Segments(), PLACES[place]).point()
    fit(copied, manifest_of(generation), policy, Segments(), PLACES[place]).copy()

    assert odd_strips(layout, pointed, policy) == []
    assert odd_strips(layout, copied, policy) == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", MIXTURES)
def test_projections_back_of_all_experts_are_read_where_they_lie(
    families: dict[str, Generation], policy_of: dict[str, Path], family: str, place: str
) -> None:
    policy, generation = policy_of[family], families[family]
    model = blank(server_layout(read_policy_config(policy), PLACES[place]))

    fit(model, manifest_of(generation), policy, Segments(), PLACES[place]).point()
    with map_for_writing(generation.segment) as mapped:
        before = mapped[:]
        mapped[:] = bytes(len(mapped))
        down = [tensor.clone() for name, tensor in model.by_name.items() if name.endswith("w2_weight")]
        mapped[:] = before

    assert down
    assert not any(tensor.any() for tensor in down)


def blank(layout: tuple[LocalParameter, ...]) -> Model:
    """Return a model of a rank that holds nothing yet."""
    return Model(tuple(RankParameter(item.name, item.shape, (), item.dtype or "float32") for item in layout))


def odd_strips(layout: tuple[LocalParameter, ...], model: Model, policy: Path) -> list[Strip]:
    """Return strips that do not hold what the policy's folder has there."""
    tensors = weights_in(policy)
    return [
        strip
        for item in layout
        for strip in item.strips
        if not torch.equal(model.by_name[item.name][strip.in_parameter], tensors[strip.tensor][strip.in_tensor])
    ]


@pytest.fixture(scope="module")
def policy_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: write_policy(folder / family, family, vocab_size=70) for family in FAMILIES}


@pytest.fixture(scope="module")
def families(policy_of: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Generation]:
    """A generation of each family, of its folder's weights."""
    folder = tmp_path_factory.mktemp("segments")
    return {
        family: write_generation(policy, weights_in(policy), folder / family) for family, policy in policy_of.items()
    }
