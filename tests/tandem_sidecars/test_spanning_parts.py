"""A model that spans pods, of any family and split: each pod's own part, and what the others bring."""

from math import lcm
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.process.commands import SegmentSource
from tandem_checkpoint.segments.manifest import BrokenSegment, manifest_of_pieces, verify
from tandem_checkpoint.segments.store import map_for_reading, map_for_writing
from tandem_checkpoint.transfer.extents import Source
from tandem_checkpoint.transfer.plan import Offer, plan_routes
from tandem_checkpoint.transfer.runs import gathered, runs_of, scatter, size_of
from tests.tandem_checkpoint.layouts.models import model, quantised_models, split_models
from tests.tandem_sidecars.bare_ranks import Ranks, are_equal, pieces_of, write_folder

LATENT = "DeepseekV3ForCausalLM"


@st.composite
def jobs(draw: st.DrawFn) -> tuple[PolicyConfig, tuple[PodRanks, ...]]:
    """A policy, and pods whose ranks hold it together, perhaps twice."""
    policy, split = draw(st.one_of(split_models(), quantised_models()))
    num_ranks = lcm(split.tensor, split.expert * split.expert_tensor) * split.pipeline * draw(st.integers(1, 2))
    num_pods = draw(st.sampled_from([number for number in range(1, num_ranks + 1) if num_ranks % number == 0]))
    return policy, PodRanks(split, num_ranks // num_pods, num_pods).pods()


class Job:
    """The pods' ranks, loaded from one folder, and what each pod has exported."""

    def __init__(self, folder: Path, policy: PolicyConfig, pods: tuple[PodRanks, ...]) -> None:
        origin = write_folder(folder / "origin", policy)
        self.ranks = [Ranks(policy, pod.split, places=pod.places()).load(origin) for pod in pods]
        self.exported = [self._export(folder / f"pod-{number}", ranks) for number, ranks in enumerate(self.ranks)]

    @property
    def offers(self) -> list[Offer]:
        return [Offer(Source(f"{n:04}", ""), pieces_of(source)) for n, source in enumerate(self.exported)]

    def bring(self, reader: int) -> int:
        """Fetch what a pod lacks from the segments of others, check all of it, and return how many bytes came."""
        (route,) = plan_routes(self.offers, f"{reader:04}", 256)
        with map_for_writing(Path(self.exported[reader].path)) as into:
            for extent in route.extents:
                with map_for_reading(Path(self.exported[int(extent.sources[0].pod)].path)) as mapped:
                    data = b"".join(gathered(mapped, extent.runs, 1 << 20))
                scatter(memoryview(data), extent.runs, into)
            verify(into, route.pieces)
        manifest_of_pieces(self.ranks[0].layout, 0, route.pieces, "segment")
        return sum(extent.num_bytes for extent in route.extents)

    @staticmethod
    def _export(folder: Path, ranks: Ranks) -> SegmentSource:
        folder.mkdir(exist_ok=True)
        return ranks.export(folder)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs())
def test_every_pods_segment_becomes_the_whole_policy_and_no_byte_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[PolicyConfig, tuple[PodRanks, ...]]
) -> None:
    job = Job(tmp_path_factory.mktemp("job"), *case)
    boxes = {(piece.tensor, piece.start, piece.stop): piece for offer in job.offers for piece in offer.pieces}
    needed = size_of(map(runs_of, boxes.values()))

    moved = [job.bring(reader) for reader in range(len(job.ranks))]

    held = [size_of(map(runs_of, offer.pieces)) for offer in job.offers]
    contents = {Path(source.path).read_bytes() for source in job.exported}
    assert moved == [needed - size for size in held]
    assert len(contents) == 1
    assert not case[1][0].is_whole or moved == [0] * len(moved)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs())
def test_a_pods_ranks_are_restored_from_its_own_part(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[PolicyConfig, tuple[PodRanks, ...]]
) -> None:
    policy, pods = case
    job = Job(tmp_path_factory.mktemp("job"), policy, pods)

    again = [
        Ranks(policy, pod.split, places=pod.places()).load(source)
        for pod, source in zip(pods, job.exported, strict=True)
    ]
    once_more = [ranks.export(Path(source.path).parent) for ranks, source in zip(again, job.exported, strict=True)]

    assert [pieces_of(source) for source in once_more] == [pieces_of(source) for source in job.exported]


def test_a_part_is_not_taken_for_another_pods(tmp_path: Path) -> None:
    policy, pods = model(LATENT), PodRanks(TrainerSplit(tensor=2), 1, 2).pods()
    job = Job(tmp_path, policy, pods)
    ranks = Ranks(policy, pods[0].split, places=pods[1].places())

    with pytest.raises(BrokenSegment, match=r"the registered pieces do not make up .* exactly once"):
        ranks.load(job.exported[0])

    assert are_equal(ranks.parameters[0], Ranks(policy, pods[0].split, places=pods[1].places()).parameters[0])
