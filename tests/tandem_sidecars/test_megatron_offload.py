"""Offload: what leaves the devices comes back as it was."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tandem_api.engine import Sample
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.process.commands import Moved, Offload, Refused, Reload, Trained
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess
from tests.tandem_sidecars.policies import WEIGHTS, write_policy
from tests.tandem_sidecars.training import ANY, SMOOTH, largest_difference, train, weights_of

pytestmark = pytest.mark.megatron

REMEMBERS = ObjectiveSpec(reset_optimizer=False)


@pytest.fixture(scope="module")
def wide_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of 20 MB: large enough for each of its parts to be seen in a measure."""
    return write_policy(tmp_path_factory.mktemp("wide") / "policy", tied=False, vocabulary=20_000)


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


def forget_gradients() -> None:
    """Planted: the gradients stay on the device."""
    from megatron.core.distributed import param_and_grad_buffer

    param_and_grad_buffer._ParamAndGradBuffer.offload_to_cpu = lambda *_, **__: None


def forget_optimizer() -> None:
    """Planted: the optimizer's state stays on the device."""
    from tandem_sidecars.megatron.offload import Offload

    Offload._movable = lambda self: iter(self._parameters.values())  # type: ignore[method-assign]


def hold_on() -> None:
    """Planted: somebody else holds on to as much memory as leaves."""
    from tandem_sidecars.megatron.device import CpuDevice

    CpuDevice.suspend_communicators = _allocate  # type: ignore[method-assign]


def _allocate(self: object) -> None:
    self.held = bytearray(os.urandom(1 << 20)) * 64  # type: ignore[attr-defined]


def trained_and_away(rank: RankProcess, samples: tuple[Sample, ...]) -> Moved:
    """Have a rank train, so that gradients and moments are there, and then leave the device."""
    rank.ask(train(samples, limit=ANY), Trained)
    return rank.ask(Offload(), Moved)


def test_the_memory_in_use_shrinks_by_all_that_had_been_there(
    forge: Forge, wide_policy: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank = forge.start(job_config(wide_policy, objective=REMEMBERS), tmp_path)
    weights_bytes = (wide_policy / WEIGHTS).stat().st_size

    moved = trained_and_away(rank, samples)

    assert moved.freed is not None
    assert moved.freed.expected_bytes > 3.9 * weights_bytes  # parameters, gradients, two moments
    assert moved.freed.measured_bytes > 0.95 * moved.freed.expected_bytes
    assert moved.device_bytes == 0


def test_moments_that_are_forgotten_anyway_are_not_even_parked(
    forge: Forge, wide_policy: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank = forge.start(job_config(wide_policy), tmp_path)
    weights_bytes = (wide_policy / WEIGHTS).stat().st_size

    moved = trained_and_away(rank, samples)

    assert moved.freed is not None
    assert 1.9 * weights_bytes < moved.freed.expected_bytes < 2.1 * weights_bytes
    assert moved.device_bytes == 0


@pytest.mark.parametrize("plant", [forget_gradients, forget_optimizer, hold_on])
def test_an_offload_that_leaves_something_behind_says_that_the_device_is_not_free(
    forge: Forge,
    wide_policy: Path,
    samples: tuple[Sample, ...],
    tmp_path: Path,
    plant: Callable[[], None],
) -> None:
    rank = forge.start(job_config(wide_policy, objective=REMEMBERS), tmp_path, plant=plant)
    weights_bytes = (wide_policy / WEIGHTS).stat().st_size

    moved = trained_and_away(rank, samples)

    assert moved.device_bytes > 0.9 * weights_bytes


def test_offloading_again_and_again_takes_no_more_memory(
    forge: Forge, wide_policy: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank = forge.start(job_config(wide_policy, objective=REMEMBERS), tmp_path)
    trained_and_away(rank, samples)
    first = psutil.Process(rank.pid).memory_info().rss

    for _ in range(3):
        rank.ask(Reload(), Moved)
        trained_and_away(rank, samples)

    assert psutil.Process(rank.pid).memory_info().rss < 1.05 * first


def test_what_was_moved_already_is_not_measured_again(rank: RankProcess) -> None:
    rank.ask(Offload(), Moved)

    assert rank.ask(Offload(), Moved).freed is None
    assert rank.ask(Reload(), Moved).freed is None


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
