"""Training in every layout: the same numbers and the same bytes as one rank, whoever holds which part of the model."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tandem_api.engine import Sample
from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.process.commands import Fingerprint, Fingerprinted, FolderSource, Moved, Offload, Reload, Trained
from tandem_checkpoint.segments.holdings import holding_of
from tests.families.policies import write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, two_places
from tests.tandem_sidecars.holdings import held, infos_of, whole
from tests.tandem_sidecars.pod import Exports, Pod
from tests.tandem_sidecars.policies import samples_of
from tests.tandem_sidecars.training import LIMIT, SMOOTH, Tensors, weights_in

pytestmark = pytest.mark.megatron

POLICIES: Mapping[str, Mapping[str, object]] = {
    "qwen2": {"num_hidden_layers": 4, "vocab_size": 65},
    "qwen2 tied": {"num_hidden_layers": 4, "vocab_size": 65, "tied": True},
    "llama": {},
    "qwen3": {"tied": True},
    "mixtral": {},
    "qwen3_moe": {},
    "deepseek_v3": {},
}
"""Arguments beside the family's name. 65 tokens: with two tensor ranks the embeddings have a row of padding."""
CASES = [
    ("qwen2", 2, TrainerParallelism(tensor=2)),
    ("qwen2", 2, TrainerParallelism(pipeline=2)),
    ("qwen2 tied", 2, TrainerParallelism(pipeline=2, first_stage_layers=1)),
    ("qwen2 tied", 2, TrainerParallelism(pipeline=2, virtual_pipeline=2)),
    ("qwen2 tied", 4, TrainerParallelism(tensor=2, pipeline=2)),
    ("qwen2", 4, TrainerParallelism(tensor=2)),
    ("llama", 4, TrainerParallelism(tensor=4)),
    ("qwen3", 2, TrainerParallelism(tensor=2)),
    ("mixtral", 4, TrainerParallelism(pipeline=2, expert=2)),
    ("qwen3_moe", 2, TrainerParallelism(expert=2)),
    ("qwen3_moe", 2, TrainerParallelism(tensor=2)),
    ("qwen3_moe", 4, TrainerParallelism(tensor=2, expert=2, expert_tensor=2)),
    ("deepseek_v3", 4, TrainerParallelism(tensor=2, pipeline=2, expert=2, last_stage_layers=1)),
]


@dataclass(frozen=True, slots=True)
class Course:
    """What a pod did, in order."""

    pod: Pod
    first: Exports
    trained: list[Trained]
    held_bytes: int
    """Device memory after the offload that follows."""
    second: Exports
    """Exported while the weights are in host memory."""
    weights: Tensors
    at_first: list[Fingerprinted]
    """What the ranks held before training, with what the policy's folder holds."""
    parked: list[Fingerprinted]
    """What they held in host memory."""


class Stage:
    """Runs a course a layout, and one on a single rank a policy."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self._forge = forge
        self._folder = folder
        self._policies: dict[str, tuple[Path, tuple[Sample, ...]]] = {}
        self._alone: dict[str, Course] = {}
        self._numbers = itertools.count()

    def alone(self, policy: str) -> Course:
        if policy not in self._alone:
            self._alone[policy] = self.run(policy, 1, TrainerParallelism())
        return self._alone[policy]

    def run(self, policy: str, num_ranks: int, parallelism: TrainerParallelism) -> Course:
        origin, samples = self._policy(policy)
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        config = job_config(
            origin, num_ranks=num_ranks, parallelism=parallelism, optimizer=SMOOTH, micro_batch_tokens=40
        )
        ranks = self._forge.start_all(config, folder, two_places(num_ranks))
        pod = Pod(ranks, PodRanks(split_of(parallelism), num_ranks), origin, folder)
        first = pod.export("first")
        at_first = pod.ask(lambda _: Fingerprint(folder=str(origin)), Fingerprinted)
        trained = pod.train(samples, LIMIT)
        pod.ask(lambda _: Offload(), Moved)
        left = pod.ask(lambda _: Offload(), Moved)
        second = pod.export("second")
        parked = pod.ask(lambda _: Fingerprint(), Fingerprinted)
        pod.ask(lambda _: Reload(), Moved)
        held_bytes = sum(answer.device_bytes for answer in left)
        return Course(pod, first, trained, held_bytes, second, pod.save("saved"), at_first, parked)

    def _policy(self, name: str) -> tuple[Path, tuple[Sample, ...]]:
        if name not in self._policies:
            path = write_policy(self._folder / name.replace(" ", "-"), name.split()[0], **POLICIES[name])  # type: ignore[arg-type]
            self._policies[name] = path, samples_of(path, dtype=torch.float64)
        return self._policies[name]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Forge() as forge:
        yield Stage(forge, tmp_path_factory.mktemp("layouts"))


def named(case: object) -> str | None:
    """Return what a case is called in the report."""
    if isinstance(case, TrainerParallelism):
        return " ".join(f"{name} {value}" for name, value in case.model_dump(exclude_defaults=True).items())
    return None


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {case[1]} ranks, {named(case[2])}")
def pair(request: pytest.FixtureRequest, stage: Stage) -> Iterator[tuple[Course, Course]]:
    """The course of a layout, and that of one rank."""
    policy, num_ranks, parallelism = request.param
    alone, course = stage.alone(policy), stage.run(policy, num_ranks, parallelism)
    yield course, alone
    for rank in course.pod.ranks:
        rank.close()


def test_every_rank_says_that_its_log_probabilities_are_those_of_transformers(pair: tuple[Course, Course]) -> None:
    course, _ = pair

    assert {answer.max_abs_logprob_difference <= LIMIT for answer in course.trained} == {True}
    assert len(set(course.trained)) == 1


def test_each_sample_counts_once(pair: tuple[Course, Course]) -> None:
    course, alone = pair
    one, other = course.trained[0], alone.trained[0]

    assert one.num_tokens == other.num_tokens
    assert [step.loss for step in one.steps] == pytest.approx([step.loss for step in other.steps], rel=1e-4, abs=1e-4)
    assert [step.gradient_norm for step in one.steps] == pytest.approx(
        [step.gradient_norm for step in other.steps], rel=1e-4
    )


def test_steps_give_the_weights_that_one_rank_gets(pair: tuple[Course, Course]) -> None:
    course, alone = pair

    assert course.weights.keys() == alone.weights.keys()
    distances = {name: distance(course.weights[name], alone.weights[name]) for name in alone.weights}
    assert max(distances.values()) <= 1e-6, max(distances, key=lambda name: distances[name])


def test_what_all_ranks_export_is_what_one_exports_to_the_last_bit(pair: tuple[Course, Course]) -> None:
    course, alone = pair

    assert course.first.content == alone.first.content


def test_fingerprints_of_all_ranks_add_up_to_those_of_the_folder(pair: tuple[Course, Course]) -> None:
    course, _ = pair
    tensors = weights_in(course.pod.policy)
    folder = [box for answer in course.at_first for box in answer.folder_boxes]

    found = held(course.at_first, tensors)

    assert found.mistakes == ()
    assert found.fingerprints == whole(tensors).fingerprints
    assert holding_of("the folder", folder, infos_of(tensors)).fingerprints == found.fingerprints


def test_so_do_those_of_parked_weights_after_training(pair: tuple[Course, Course]) -> None:
    course, _ = pair

    assert held(course.parked, course.weights).mistakes == ()
    assert held(course.parked, course.weights).fingerprints == whole(course.weights).fingerprints


def test_no_piece_is_written_twice(pair: tuple[Course, Course]) -> None:
    course, _ = pair

    written = sum(piece.num_bytes for piece in course.second.pieces)
    assert written == sum(tensor.nbytes for tensor in course.weights.values())


def test_the_devices_are_free_after_an_offload(pair: tuple[Course, Course]) -> None:
    course, _ = pair

    assert course.held_bytes == 0


def test_a_checkpoint_is_what_was_exported(pair: tuple[Course, Course]) -> None:
    course, alone = pair

    alone.pod.load(course.second.source)

    loaded = alone.pod.save("loaded")
    assert loaded.keys() == course.weights.keys()
    assert {name for name in loaded if not torch.equal(loaded[name], course.weights[name])} == set()


def test_what_was_exported_and_imported_is_exported_again_to_the_last_bit(pair: tuple[Course, Course]) -> None:
    course, _ = pair
    course.pod.load(FolderSource(path=str(course.pod.policy)))
    back = course.pod.export("back")

    course.pod.load(course.second.source)

    assert back.content == course.first.content
    assert course.pod.export("again").content == course.second.content


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two tensors are apart, over the length of the second."""
    return float((one - other).norm() / other.norm())
