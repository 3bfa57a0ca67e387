"""A trainer that keeps its optimizer goes on from a checkpoint, in any layout, as one that was never interrupted."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tandem_api.engine import Sample
from tandem_api.job.pods import TrainerParallelism
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.disk.optimizer_folder import FOLDER, all_written, make_optimizer_folder
from tandem_checkpoint.disk.replacing import aside_of, sweep
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.process.commands import (
    FolderSource,
    Load,
    Loaded,
    Moved,
    Offload,
    RankCommand,
    Refused,
    Reload,
    Save,
    Saved,
    SaveOptimizer,
    SaveStep,
    Train,
    Trained,
)
from tests.families.policies import write_policy
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Answer, Forge, RankProcess, ask_all, two_places
from tests.tandem_sidecars.policies import samples_of
from tests.tandem_sidecars.training import ANY, SMOOTH, Tensors, largest_difference, weights_in

pytestmark = pytest.mark.megatron

LIMIT = 1e-6
"""Largest difference of a weight after two steps at a learning rate of 1e-3."""
WRITE_SECONDS = 30.0
SPLIT = TrainerParallelism(tensor=2)
OTHERS = [TrainerParallelism(), TrainerParallelism(pipeline=2), TrainerParallelism(pipeline=2, virtual_pipeline=2)]


@dataclass(frozen=True, slots=True)
class Trainers:
    """All ranks of a job."""

    ranks: Sequence[RankProcess]
    layout: PodRanks
    samples: tuple[Sample, ...]

    def ask(self, command: Callable[[int], RankCommand], wanted: type[Answer]) -> list[Answer]:
        return ask_all(self.ranks, command, wanted)

    def train(self) -> None:
        """Take two steps."""
        shares = [self.samples[number :: self.layout.num_shares] for number in range(self.layout.num_shares)]
        sizes = (len(self.samples),) * 2
        self.ask(
            lambda index: Train(
                max_logprob_difference=ANY, steps=(shares[self.layout.share(index)],) * 2, samples_per_step=sizes
            ),
            Trained,
        )

    def weights(self, folder: Path) -> Tensors:
        """Write the policy into `folder`, and return it."""
        self.ranks[0].ask(Save(path=str(folder), step=SaveStep.PREPARE), Saved)
        self.ask(lambda _: Save(path=str(folder), step=SaveStep.WRITE), Saved)
        self.ranks[0].ask(Save(path=str(folder), step=SaveStep.COMMIT), Saved)
        return weights_in(folder)

    def save_optimizer(self, checkpoint: Path, wanted: type[Answer]) -> None:
        """Have all ranks copy the state; they write it from then on."""
        sweep(checkpoint)
        make_optimizer_folder(aside_of(checkpoint))
        order = SaveOptimizer(checkpoint=str(checkpoint), step=SaveStep.WRITE)
        self.ask(lambda _: order, wanted)

    def finish_optimizer(self, checkpoint: Path) -> Path:
        """End the folder once all have written."""
        folder = aside_of(checkpoint) / FOLDER
        asyncio.run(asyncio.wait_for(all_written(folder, range(len(self.ranks)), lambda: None), WRITE_SECONDS))
        self.ranks[0].ask(SaveOptimizer(checkpoint=str(checkpoint), step=SaveStep.COMMIT), Saved)
        return folder

    def go_on(self, policy: Path, optimizer: Path | None, out: Path) -> Tensors:
        """Load a checkpoint, leave the device and come back, train, and return the weights."""
        order = Load(source=FolderSource(path=str(policy)), optimizer=str(optimizer or ""))
        self.ask(lambda _: order, Loaded)
        self.ask(lambda _: Offload(), Moved)
        self.ask(lambda _: Reload(), Moved)
        self.train()
        return self.weights(out)


@dataclass(frozen=True, slots=True)
class Course:
    """Two iterations of a split trainer, with a checkpoint between them."""

    initial: Path
    samples: tuple[Sample, ...]
    policy: Path
    optimizer: Path
    uninterrupted: Tensors
    trainers: Trainers


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


def trainers_of(
    forge: Forge, initial: Path, folder: Path, samples: tuple[Sample, ...], split: TrainerParallelism
) -> Trainers:
    """Start the ranks of a job that keeps its optimizer."""
    num_ranks = split.tensor * split.pipeline * split.expert
    objective = ObjectiveSpec(reset_optimizer=False)
    config = job_config(initial, num_ranks=num_ranks, parallelism=split, optimizer=SMOOTH, objective=objective)
    ranks = forge.start_all(config, folder, two_places(num_ranks))
    return Trainers(ranks, PodRanks(split_of(split), num_ranks), samples)


def run_course(forge: Forge, folder: Path, family: str, split: TrainerParallelism) -> Course:
    initial = write_policy(folder / "initial", family, num_hidden_layers=4)
    samples = tuple(samples_of(initial, dtype=torch.float64))
    trainers = trainers_of(forge, initial, folder, samples, split)
    trainers.train()
    trainers.weights(folder / "policy")
    checkpoint = folder / "checkpoint"
    trainers.save_optimizer(checkpoint, Saved)
    trainers.train()
    optimizer = trainers.finish_optimizer(checkpoint)
    after = trainers.weights(folder / "after")
    return Course(initial, samples, folder / "policy", optimizer, after, trainers)


@pytest.fixture(scope="module")
def course(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Course:
    return run_course(forge, tmp_path_factory.mktemp("resume"), "qwen2", SPLIT)


@pytest.mark.parametrize("split", OTHERS, ids=["one rank", "two stages", "two stages of two chunks"])
def test_training_goes_on_in_another_layout_as_if_it_had_not_been_interrupted(
    forge: Forge, course: Course, tmp_path: Path, split: TrainerParallelism
) -> None:
    others = trainers_of(forge, course.initial, tmp_path, course.samples, split)

    resumed = others.go_on(course.policy, course.optimizer, tmp_path / "resumed")
    forgetful = others.go_on(course.policy, None, tmp_path / "forgetful")

    assert largest_difference(resumed, course.uninterrupted) < LIMIT
    assert largest_difference(forgetful, course.uninterrupted) > 100 * LIMIT


def test_training_goes_on_where_experts_were_dealt_out(forge: Forge, tmp_path: Path) -> None:
    dealt = run_course(forge, tmp_path, "qwen3_moe", TrainerParallelism(expert=2))
    alone = trainers_of(forge, dealt.initial, tmp_path, dealt.samples, TrainerParallelism())

    resumed = alone.go_on(dealt.policy, dealt.optimizer, tmp_path / "resumed")

    assert largest_difference(resumed, dealt.uninterrupted) < LIMIT


def test_a_trainer_goes_back_to_a_checkpoint_of_its_own(course: Course, tmp_path: Path) -> None:
    resumed = course.trainers.go_on(course.policy, course.optimizer, tmp_path / "resumed")

    assert largest_difference(resumed, course.uninterrupted) < LIMIT


def test_where_one_rank_has_no_state_all_begin_without(course: Course, tmp_path: Path) -> None:
    trainers = course.trainers
    source = FolderSource(path=str(course.policy))
    trainers.ask(lambda index: Load(source=source, optimizer=str(course.optimizer) if index else ""), Loaded)
    trainers.train()
    mixed = trainers.weights(tmp_path / "mixed")

    forgetful = trainers.go_on(course.policy, None, tmp_path / "forgetful")

    assert largest_difference(mixed, forgetful) == 0


def test_what_cannot_be_loaded_is_told_before_anything_is_trained(course: Course, tmp_path: Path) -> None:
    order = Load(source=FolderSource(path=str(course.policy)), optimizer=str(tmp_path / "optimizer"))
    course.trainers.ask(lambda _: order, Loaded)

    refused = course.trainers.ask(
        lambda _: Train(max_logprob_difference=ANY, steps=(course.samples,), samples_per_step=(1,)), Refused
    )

    assert "remove the checkpoint's folder `optimizer`" in refused[0].reason


def test_a_trainer_that_is_offloaded_saves_no_state(course: Course, tmp_path: Path) -> None:
    course.trainers.ask(lambda _: Offload(), Moved)

    course.trainers.save_optimizer(tmp_path / "checkpoint", Refused)

    course.trainers.ask(lambda _: Reload(), Moved)
