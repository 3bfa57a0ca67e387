"""Training in bfloat16: the loss and what the optimizer keeps are float32."""

from pathlib import Path

import pytest
import torch

from tandem_api.engine import Sample
from tandem_api.job.pods import OptimizerSpec
from tandem_api.job.policy import Dtype
from tandem_checkpoint.process.commands import Moved, Offload, Reload, Trained
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, RankProcess
from tests.tandem_sidecars.training import ANY, train, weights_of

pytestmark = pytest.mark.megatron

SMALL_STEPS = OptimizerSpec(learning_rate=2e-5, weight_decay=0.0)
MATRIX = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def rank(forge: Forge, untied_policy: Path, tmp_path: Path) -> RankProcess:
    """A trainer that holds the untied policy in bfloat16."""
    return forge.start(job_config(untied_policy, optimizer=SMALL_STEPS, dtype=Dtype.BFLOAT16), tmp_path)


def test_weights_are_bfloat16_and_the_loss_is_float32(
    rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    trained = rank.ask(train(samples, limit=ANY), Trained)

    loss = torch.tensor(trained.steps[0].loss)
    assert weights_of(rank, tmp_path / "after")[MATRIX].dtype is torch.bfloat16
    assert loss != loss.bfloat16().float()
    assert 1e-3 < trained.max_abs_logprob_difference < 1.0


def test_steps_too_small_for_bfloat16_add_up_in_the_main_parameters_from_iteration_to_iteration(
    rank: RankProcess, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    rank.ask(train(samples, limit=ANY), Trained)
    first = weights_of(rank, tmp_path / "first")[MATRIX]

    for _ in range(4):  # iterations: each begins without moments, and has been away from the device
        rank.ask(train(*[samples] * 16, limit=ANY), Trained)
        rank.ask(Offload(), Moved)
        rank.ask(Reload(), Moved)

    last = weights_of(rank, tmp_path / "last")[MATRIX]
    large = first.abs() > 0.01
    rounded_away = (first - SMALL_STEPS.learning_rate).eq(first)
    assert rounded_away[large].all()
    assert (last != first)[large].float().mean() > 0.5
