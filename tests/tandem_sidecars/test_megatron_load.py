"""Load: a rank takes on other weights, to the last bit, or refuses and keeps its own."""

from pathlib import Path

import pytest
import torch

from tandem_api.engine import JobConfig, Sample
from tandem_api.job.policy import Dtype
from tandem_api.job.recipe import ObjectiveSpec
from tandem_api.weights import Shard
from tandem_checkpoint.process.commands import (
    Build,
    FolderSource,
    Load,
    Loaded,
    Moved,
    Offload,
    Ready,
    Refused,
    SegmentSource,
    Trained,
)
from tandem_checkpoint.segments.store import map_for_writing
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import ALONE, Forge, RankProcess, two_places
from tests.tandem_sidecars.test_megatron_export import Segment, export, segment
from tests.tandem_sidecars.training import ANY, SMOOTH, largest_difference, train, weights_in, weights_of

__all__ = ["segment"]
pytestmark = pytest.mark.megatron

REMEMBERS = ObjectiveSpec(reset_optimizer=False)


def source_of(segment: Segment, *ranks: RankProcess) -> SegmentSource:
    """Have ranks export, and return the generation as the source of other weights."""
    shards = tuple(segment.shard(export(rank, segment)) for rank in ranks)
    return SegmentSource(path=str(segment.path), shards=shards)


def in_mixed_precision(config: JobConfig) -> JobConfig:
    policy = config.spec.policy.model_copy(update={"dtype": Dtype.BFLOAT16})
    return config.model_copy(update={"spec": config.spec.model_copy(update={"policy": policy})})


def test_a_generation_is_restored_from_the_segment_bit_by_bit(
    rank: RankProcess, segment: Segment, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank.ask(train(samples), Trained)
    exported, source = weights_of(rank, tmp_path / "exported"), source_of(segment, rank)
    rank.ask(train(samples, limit=ANY), Trained)
    assert largest_difference(weights_of(rank, tmp_path / "later"), exported) > 0.0

    loaded = rank.ask(Load(source=source), Loaded)

    assert largest_difference(weights_of(rank, tmp_path / "restored"), exported) == 0.0
    assert loaded.device_bytes > 0


def test_a_restored_generation_is_exported_with_the_same_checksums(
    rank: RankProcess, segment: Segment, samples: tuple[Sample, ...]
) -> None:
    source = source_of(segment, rank)
    rank.ask(train(samples), Trained)

    rank.ask(Load(source=source), Loaded)

    assert export(rank, segment) == source.shards[0].pieces


def test_a_rank_that_comes_back_is_built_from_the_segment(
    forge: Forge, rank: RankProcess, segment: Segment, samples: tuple[Sample, ...], tmp_path: Path, untied_policy: Path
) -> None:
    rank.ask(train(samples), Trained)
    source = source_of(segment, rank)

    again = forge.start_from(job_config(untied_policy), tmp_path, source)

    assert largest_difference(weights_of(again, tmp_path / "a"), weights_of(rank, tmp_path / "b")) == 0.0


def test_a_tied_policy_is_restored_bit_by_bit_too(forge: Forge, tied_policy: Path, tmp_path: Path) -> None:
    rank = forge.start(job_config(tied_policy), tmp_path)
    source = source_of(Segment(tied_policy, tmp_path), rank)

    again = forge.start_from(job_config(tied_policy), tmp_path, source)

    assert largest_difference(weights_of(again, tmp_path / "out"), weights_in(tied_policy)) == 0.0


def test_a_folder_is_loaded_bit_by_bit(
    rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path, untied_policy: Path
) -> None:
    rank.ask(train(samples), Trained)

    rank.ask(Load(source=FolderSource(path=str(untied_policy))), Loaded)

    assert largest_difference(weights_of(rank, tmp_path / "out"), weights_in(untied_policy)) == 0.0


def test_shares_of_two_ranks_make_up_one_source_for_both(
    forge: Forge, segment: Segment, untied_policy: Path, tmp_path: Path
) -> None:
    ranks = forge.start_all(job_config(untied_policy, num_ranks=2), tmp_path, two_places())
    source = source_of(segment, *ranks)

    for rank in ranks:
        rank.send(Load(source=source))

    assert all(isinstance(rank.receive(), Loaded) for rank in ranks)
    assert largest_difference(weights_of(ranks[1], tmp_path / "out"), weights_in(untied_policy)) == 0.0


def test_after_a_load_the_optimizer_starts_as_new(
    forge: Forge, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    config = job_config(untied_policy, optimizer=SMOOTH, objective=REMEMBERS)
    fresh, loaded = forge.start(config, tmp_path), forge.start(config, tmp_path)
    loaded.ask(train(samples), Trained)

    loaded.ask(Load(source=FolderSource(path=str(untied_policy))), Loaded)
    loaded.ask(train(samples), Trained)
    fresh.ask(train(samples), Trained)

    assert largest_difference(weights_of(loaded, tmp_path / "a"), weights_of(fresh, tmp_path / "b")) == 0.0


def test_a_byte_that_differs_is_refused_and_the_rank_keeps_its_weights(
    rank: RankProcess, segment: Segment, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    source = source_of(segment, rank)
    rank.ask(train(samples), Trained)
    before = weights_of(rank, tmp_path / "before")
    with map_for_writing(segment.path) as mapped:
        mapped[source.shards[0].pieces[-1].offset_bytes] ^= 1

    refused = rank.ask(Load(source=source), Refused)

    assert "checksum of" in refused.reason
    assert largest_difference(weights_of(rank, tmp_path / "after"), before) == 0.0
    assert isinstance(rank.ask(train(samples, limit=ANY), Trained), Trained)


def test_a_segment_that_lacks_a_share_is_refused(rank: RankProcess, segment: Segment) -> None:
    source = source_of(segment, rank)
    shard = source.shards[0]
    half = Shard.model_validate(shard.model_dump() | {"pieces": shard.pieces[:-1]})

    refused = rank.ask(Load(source=source.model_copy(update={"shards": (half,)})), Refused)

    assert "do not make up" in refused.reason


def test_a_segment_that_is_gone_is_refused(rank: RankProcess, segment: Segment) -> None:
    source = source_of(segment, rank)
    segment.path.unlink()

    assert "is missing" in rank.ask(Load(source=source), Refused).reason


def test_a_segment_that_was_emptied_is_refused(rank: RankProcess, segment: Segment, tmp_path: Path) -> None:
    source = source_of(segment, rank)
    other = tmp_path / "emptied"
    other.write_bytes(b"nothing")

    refused = rank.ask(Load(source=source.model_copy(update={"path": str(other)})), Refused)

    assert "fewer than its pieces need" in refused.reason


def test_a_folder_of_another_policy_is_refused(rank: RankProcess, tied_policy: Path) -> None:
    refused = rank.ask(Load(source=FolderSource(path=str(tied_policy))), Refused)

    assert "lacks the tensor lm_head.weight" in refused.reason


def test_an_offloaded_trainer_refuses_other_weights(rank: RankProcess, untied_policy: Path) -> None:
    rank.ask(Offload(), Moved)

    refused = rank.ask(Load(source=FolderSource(path=str(untied_policy))), Refused)

    assert refused.reason == "the trainer is offloaded; switch to Train first"


def test_a_rank_without_a_model_refuses_everything_but_to_build_one(
    forge: Forge, untied_policy: Path, tmp_path: Path
) -> None:
    bare = forge.start_bare(job_config(untied_policy), tmp_path)

    refused = bare.ask(Offload(), Refused)

    assert refused.reason == "the trainer has no model yet; it is still starting"
    bare.ask(Build(place=ALONE, source=FolderSource(path=str(untied_policy))), Ready)


def test_a_policy_that_cannot_be_read_is_refused_and_another_one_may_follow(
    forge: Forge, untied_policy: Path, tmp_path: Path
) -> None:
    bare = forge.start_bare(job_config(untied_policy), tmp_path)

    refused = bare.ask(Build(place=ALONE, source=FolderSource(path=str(tmp_path / "nothing"))), Refused)

    assert "holds no .safetensors file" in refused.reason
    bare.ask(Build(place=ALONE, source=FolderSource(path=str(untied_policy))), Ready)


def test_building_twice_is_refused(rank: RankProcess, untied_policy: Path) -> None:
    refused = rank.ask(Build(place=ALONE, source=FolderSource(path=str(untied_policy))), Refused)

    assert refused.reason == "this rank has its model already"


def test_in_mixed_precision_the_main_parameters_follow_the_loaded_weights(
    forge: Forge, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    config = in_mixed_precision(job_config(untied_policy, optimizer=SMOOTH))
    fresh, loaded = forge.start(config, tmp_path), forge.start(config, tmp_path)
    loaded.ask(train(samples, limit=ANY), Trained)

    loaded.ask(Load(source=FolderSource(path=str(untied_policy))), Loaded)
    loaded.ask(train(samples, limit=ANY), Trained)
    fresh.ask(train(samples, limit=ANY), Trained)

    a, b = weights_of(loaded, tmp_path / "a"), weights_of(fresh, tmp_path / "b")
    assert {tensor.dtype for tensor in a.values()} == {torch.bfloat16}
    assert largest_difference(a, b) == 0.0
