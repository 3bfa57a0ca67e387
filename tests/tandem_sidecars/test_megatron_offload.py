"""Offload: what leaves the devices comes back as it was."""

from pathlib import Path

import pytest

from tandem_api.engine import Sample
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.process.commands import Moved, Offload, Refused, Reload, Trained
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess
from tests.tandem_sidecars.training import ANY, SMOOTH, largest_difference, train, weights_of

pytestmark = pytest.mark.megatron


def test_held_device_memory_goes_to_nothing_and_comes_back(rank: RankProcess, samples: tuple[Sample, ...]) -> None:
    rank.ask(train(samples), Trained)

    away = rank.ask(Offload(), Moved).device_bytes
    back = rank.ask(Reload(), Moved).device_bytes

    assert away == 0
    assert back > 0


def test_an_offloaded_trainer_keeps_its_weights_bit_by_bit(
    rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank.ask(train(samples), Trained)
    before = weights_of(rank, tmp_path / "before")

    rank.ask(Offload(), Moved)
    parked = weights_of(rank, tmp_path / "parked")
    rank.ask(Reload(), Moved)

    assert largest_difference(before, parked) == 0.0
    assert largest_difference(before, weights_of(rank, tmp_path / "after")) == 0.0


def test_leaving_and_coming_back_twice_are_harmless(rank: RankProcess) -> None:
    rank.ask(Offload(), Moved)
    assert rank.ask(Offload(), Moved).device_bytes == 0
    back = rank.ask(Reload(), Moved).device_bytes
    assert rank.ask(Reload(), Moved).device_bytes == back


def test_an_offloaded_trainer_refuses_to_train(rank: RankProcess, samples: tuple[Sample, ...]) -> None:
    rank.ask(Offload(), Moved)

    assert rank.ask(train(samples), Refused).reason == "the trainer is offloaded; switch to Train first"


@pytest.mark.parametrize("reset", [True, False], ids=["the optimizer forgets", "the optimizer remembers"])
def test_training_goes_on_after_an_offload_as_if_nothing_had_been(
    forge: Forge, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path, reset: bool
) -> None:
    config = job_config(untied_policy, optimizer=SMOOTH, objective=ObjectiveSpec(reset_optimizer=reset))
    stays, leaves = forge.start(config, tmp_path), forge.start(config, tmp_path)
    stays.ask(train(samples), Trained)
    leaves.ask(train(samples), Trained)

    leaves.ask(Offload(), Moved)
    leaves.ask(Reload(), Moved)
    stays.ask(train(samples, limit=ANY), Trained)
    leaves.ask(train(samples, limit=ANY), Trained)

    assert largest_difference(weights_of(stays, tmp_path / "a"), weights_of(leaves, tmp_path / "b")) == 0.0


def test_an_optimizer_that_remembers_takes_another_step_than_one_that_forgets(
    forge: Forge, samples: tuple[Sample, ...], untied_policy: Path, tmp_path: Path
) -> None:
    forgets, remembers = (
        forge.start(
            job_config(untied_policy, optimizer=SMOOTH, objective=ObjectiveSpec(reset_optimizer=reset)), tmp_path
        )
        for reset in (True, False)
    )
    forgets.ask(train(samples), Trained)
    forgets.ask(train(samples, limit=ANY), Trained)
    remembers.ask(train(samples), Trained)
    remembers.ask(train(samples, limit=ANY), Trained)

    assert largest_difference(weights_of(forgets, tmp_path / "a"), weights_of(remembers, tmp_path / "b")) > 1e-5
