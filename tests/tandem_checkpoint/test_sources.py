"""Where a trainer that starts finds its weights, and the optimizer's state that goes with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.sources import newest_checkpoint, optimizer_of
from tests.tandem_checkpoint.jobs import job_config, settings_of


def settings_with(state: Path, *, resets: bool = False) -> Settings:
    """The settings of a job with two checkpoints: that of generation 20 has the optimizer's state."""
    config = job_config(Path("/policy"), objective=ObjectiveSpec(reset_optimizer=resets))
    checkpoints = state / "checkpoints"
    (checkpoints / "generation-000010").mkdir(parents=True)
    (checkpoints / "generation-000020" / "optimizer").mkdir(parents=True)
    (checkpoints / "generation-000020" / "optimizer" / ".metadata").touch()
    (checkpoints / "latest").write_text("generation-000020")
    return replace(settings_of(config, state), state=state)


def test_a_trainer_begins_at_the_newest_checkpoint_with_its_optimizer(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)

    generation, source = newest_checkpoint(settings)

    folder = tmp_path / "checkpoints" / "generation-000020"
    assert (generation, source.path) == (20, str(folder))
    assert optimizer_of(settings, generation) == str(folder / "optimizer")


@pytest.mark.parametrize("generation", [0, 10, 15])
def test_what_has_no_state_begins_without(tmp_path: Path, generation: int) -> None:
    assert optimizer_of(settings_with(tmp_path), generation) == ""


def test_a_job_that_resets_its_optimizer_loads_no_state(tmp_path: Path) -> None:
    assert optimizer_of(settings_with(tmp_path, resets=True), 20) == ""
