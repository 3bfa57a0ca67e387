"""One trainer rank on a GPU: it computes what transformers computes, leaves the device, and comes back as it was."""

from pathlib import Path

import pytest

from tandem_api.job.policy import Dtype
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.process.commands import Export, Exported, Moved, Offload, Reload, Trained
from tandem_checkpoint.segments.store import allocate, segment_name
from tests.gpu.machine import FLOAT32_LIMIT, config_on_device
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.policies import WEIGHTS, samples_of
from tests.tandem_sidecars.training import ANY, largest_difference, train, weights_of

REMEMBERS = ObjectiveSpec(reset_optimizer=False)
BOTH = pytest.mark.parametrize("dtype", list(Dtype))


def test_float32_gives_the_log_probabilities_of_transformers(forge: Forge, policy: Path, tmp_path: Path) -> None:
    rank = forge.start(config_on_device(policy), tmp_path)

    trained = rank.ask(train(samples_of(policy), limit=FLOAT32_LIMIT), Trained)

    assert trained.max_abs_logprob_difference <= FLOAT32_LIMIT


@BOTH
def test_the_driver_sees_that_an_offload_has_freed_what_was_there(
    forge: Forge, policy: Path, wide_policy: Path, tmp_path: Path, dtype: Dtype
) -> None:
    rank = forge.start(config_on_device(wide_policy, dtype=dtype, objective=REMEMBERS), tmp_path)
    rank.ask(train(samples_of(policy), limit=ANY), Trained)

    moved = rank.ask(Offload(), Moved)

    assert moved.freed is not None
    assert (
        moved.freed.expected_bytes > 3.9 * (wide_policy / WEIGHTS).stat().st_size
    )  # 16 bytes a parameter, 18 in BFloat16
    assert moved.freed.measured_bytes > 0.95 * moved.freed.expected_bytes
    assert moved.device_bytes == 0


@BOTH
def test_weights_come_back_bit_by_bit_and_training_goes_on(
    forge: Forge, policy: Path, tmp_path: Path, dtype: Dtype
) -> None:
    rank = forge.start(config_on_device(policy, dtype=dtype, objective=REMEMBERS), tmp_path)
    rank.ask(train(samples_of(policy), limit=ANY), Trained)
    before = weights_of(rank, tmp_path / "before")

    away = rank.ask(Offload(), Moved)
    parked = weights_of(rank, tmp_path / "parked")
    back = rank.ask(Reload(), Moved)

    assert away.device_bytes == 0
    assert back.device_bytes > 0
    assert largest_difference(before, parked) == 0.0
    assert largest_difference(before, weights_of(rank, tmp_path / "after")) == 0.0
    assert rank.ask(train(samples_of(policy), limit=ANY), Trained).num_tokens > 0


@BOTH
def test_an_export_is_the_same_from_the_device_and_from_host_memory(
    forge: Forge, policy: Path, tmp_path: Path, dtype: Dtype
) -> None:
    rank = forge.start(config_on_device(policy, dtype=dtype), tmp_path)
    allocate(tmp_path, 8 << 20)
    export = Export(segment=str(tmp_path / segment_name(0)))
    from_device = rank.ask(export, Exported)

    rank.ask(Offload(), Moved)

    assert rank.ask(export, Exported) == from_device
