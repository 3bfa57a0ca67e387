"""Export and save: what leaves the trainer is what it holds, to the last bit."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tandem_api.engine import Sample
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.process.commands import Export, Exported, Moved, Offload, Refused, Save, Saved, Trained
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.manifest import manifest_of, verify
from tandem_checkpoint.segments.store import allocate, map_for_reading, segment_name
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess, two_places
from tests.tandem_sidecars.policies import logprobs
from tests.tandem_sidecars.training import SMOOTH, Tensors, largest_difference, train, weights_in, weights_of

pytestmark = pytest.mark.megatron

PROMPT = (3, 9, 27, 17, 51, 25)


class Segment:
    """A segment on disk, and how a test reads it: by the pieces that were registered."""

    def __init__(self, policy: Path, folder: Path) -> None:
        self.layout: SegmentLayout = segment_layout(read_policy_config(policy), "float32")
        allocate(folder, self.layout.num_bytes)
        self.path = folder / segment_name(0)

    def tensors(self, pieces: Sequence[Piece]) -> Tensors:
        """Return every registered tensor, once all checksums are right."""
        mapped = map_for_reading(self.path)
        verify(mapped, pieces)
        data = torch.frombuffer(mapped, dtype=torch.uint8)
        return {
            piece.tensor: data[piece.offset_bytes : piece.offset_bytes + piece.num_bytes]
            .view(torch.float32)
            .view(piece.stop)
            for piece in pieces
        }

    def shard(self, pieces: Sequence[Piece]) -> Shard:
        return Shard(
            generation=0,
            incarnation="a",
            segment=self.path.name,
            segment_bytes=self.layout.num_bytes,
            pieces=tuple(pieces),
        )


def export(rank: RankProcess, segment: Segment) -> tuple[Piece, ...]:
    return rank.ask(Export(segment=str(segment.path)), Exported).pieces


@pytest.fixture
def segment(untied_policy: Path, tmp_path: Path) -> Segment:
    return Segment(untied_policy, tmp_path)


def test_an_exported_generation_is_the_policy_bit_by_bit(
    rank: RankProcess, segment: Segment, untied_policy: Path
) -> None:
    tensors = segment.tensors(export(rank, segment))

    assert largest_difference(tensors, weights_in(untied_policy)) == 0.0


def test_a_tied_policy_is_exported_bit_by_bit_too(forge: Forge, tied_policy: Path, tmp_path: Path) -> None:
    rank, segment = forge.start(job_config(tied_policy), tmp_path), Segment(tied_policy, tmp_path)

    tensors = segment.tensors(export(rank, segment))

    assert largest_difference(tensors, weights_in(tied_policy)) == 0.0


def test_a_trained_generation_is_exported_and_not_the_one_before(
    rank: RankProcess, segment: Segment, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    export(rank, segment)
    rank.ask(train(samples), Trained)

    tensors = segment.tensors(export(rank, segment))

    assert largest_difference(tensors, weights_of(rank, tmp_path / "now")) == 0.0
    assert largest_difference(tensors, weights_in(untied_policy)) > 0.0


def test_an_offloaded_trainer_exports_the_same(rank: RankProcess, segment: Segment, untied_policy: Path) -> None:
    rank.ask(Offload(), Moved)

    tensors = segment.tensors(export(rank, segment))

    assert largest_difference(tensors, weights_in(untied_policy)) == 0.0


def test_two_ranks_of_a_pod_share_the_work_and_make_up_the_generation_together(
    forge: Forge, segment: Segment, untied_policy: Path, tmp_path: Path
) -> None:
    first, second = forge.start_all(job_config(untied_policy, num_ranks=2), tmp_path, two_places())

    shares = export(first, segment), export(second, segment)

    manifest_of(segment.layout, [segment.shard(share) for share in shares], str(segment.path))
    tensors = segment.tensors([*shares[0], *shares[1]])
    assert largest_difference(tensors, weights_in(untied_policy)) == 0.0
    assert min(len(share) for share in shares) > 0


def test_a_saved_policy_is_the_folder_that_it_was_loaded_from(
    rank: RankProcess, untied_policy: Path, tmp_path: Path
) -> None:
    saved = rank.ask(Save(path=str(tmp_path / "out")), Saved)

    assert largest_difference(weights_in(tmp_path / "out"), weights_in(untied_policy)) == 0.0
    assert saved.num_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "config.json").read_text() == (untied_policy / "config.json").read_text()


def test_a_policy_is_saved_whole_after_the_checkpoint_that_it_started_from_has_gone(
    forge: Forge, untied_policy: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(untied_policy, tmp_path / "generation-000002")
    rank = forge.start(job_config(untied_policy), tmp_path, checkpoint)
    shutil.rmtree(checkpoint)

    rank.ask(Save(path=str(tmp_path / "out")), Saved)

    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in untied_policy.iterdir()}


@pytest.mark.parametrize("kind", ["untied_policy", "tied_policy"])
def test_transformers_loads_what_was_saved_and_says_the_same(
    forge: Forge, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    policy: Path = request.getfixturevalue(kind)

    forge.start(job_config(policy), tmp_path).ask(Save(path=str(tmp_path / "out")), Saved)

    assert logprobs(tmp_path / "out", PROMPT) == logprobs(policy, PROMPT)


def test_saving_again_replaces_the_folder_and_leaves_nothing_aside(
    rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    out = tmp_path / "state" / "policy"
    before = weights_of(rank, out)
    rank.ask(train(samples), Trained)

    after = weights_of(rank, out)

    assert largest_difference(before, after) > 0.0
    assert [path.name for path in out.parent.iterdir()] == ["policy"]


def test_what_a_crash_left_half_written_is_no_hindrance(rank: RankProcess, tmp_path: Path) -> None:
    aside = tmp_path / ".policy.partial"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"half")

    rank.ask(Save(path=str(tmp_path / "policy")), Saved)

    assert not aside.exists()


def test_a_place_that_cannot_be_written_is_refused_by_name_and_the_trainer_goes_on(
    rank: RankProcess, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    refused = rank.ask(Save(path=str(tmp_path / "file" / "policy")), Refused)

    assert refused.reason.startswith(f"{tmp_path / 'file' / 'policy'}: the policy cannot be written (")
    rank.ask(Save(path=str(tmp_path / "policy")), Saved)


def test_a_trained_policy_resumes_from_its_saved_folder(
    forge: Forge, rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank.ask(train(samples), Trained)
    saved = weights_of(rank, tmp_path / "checkpoint")

    resumed = forge.start(job_config(tmp_path / "checkpoint", optimizer=SMOOTH), tmp_path)

    assert largest_difference(weights_of(resumed, tmp_path / "again"), saved) == 0.0
