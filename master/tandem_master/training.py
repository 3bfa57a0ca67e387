"""The training of one iteration: which groups, which batch, what came of it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tandem_api.engine import TrainRequest, TrainResponse
from tandem_master.batch import Batch, PodShares, plan_batch
from tandem_master.buffer.outcome import Marks, Outcome
from tandem_master.errors import Stopped
from tandem_master.garbage import kept_aside
from tandem_master.rewards.group import length_weight
from tandem_master.rollout.segments import derive_seed
from tandem_master.run import Run
from tandem_master.samples import group_samples

logger = logging.getLogger(__name__)

TRAIN_GRACE_SECONDS = 6.0
"""Time that a running Train phase gets to end after a stop."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training did; figures are 0 where nothing was trained."""

    trajectory_ids: tuple[str, ...]
    """Members of all groups that were used up, those without a sample of their own included."""
    marks: tuple[tuple[Marks, ...], ...] = ()
    """Of these groups."""
    num_samples: int = 0
    loss: float = 0.0
    gradient_norm: float = 0.0
    learning_rate: float | None = None
    """Of the last step; None without a step."""
    kl: float = 0.0
    max_abs_logprob_difference: float = 0.0
    num_logprobs: int = 0
    """Those that were compared with the servers', before the first step."""


async def train(run: Run, iteration: int) -> Trained:
    """Train on every complete group. Where none is complete, the trainers are asked all the same, for no step at all:
    the next generation then has the same weights, and they hold it as any other.

    Errors: TrainError; Stopped, with unknown weights, where a stop cut it.
    """
    with kept_aside():
        groups = await asyncio.to_thread(run.buffer.complete_groups)
        batch = await asyncio.to_thread(_batch, run, groups, iteration)
    if batch.num_samples == 0:
        logger.warning("iteration %d: no group is complete; the policy stays as it is", iteration)
    run.board.show(activity="training")
    requests = _requests(run, batch, iteration)
    try:
        response = await run.stop.bound(run.trainers.train(requests), grace_seconds=TRAIN_GRACE_SECONDS)
    except Stopped:
        raise Stopped(weights_known=False) from None
    return _trained(groups, batch, response)


def _batch(run: Run, groups: Sequence[Sequence[Outcome]], iteration: int) -> Batch:
    recipe = run.spec.recipe
    weight = length_weight(recipe.length_reward, iteration)
    exclude_old = recipe.partial_rollout.exclude_old_segments
    samples = [
        group_samples(group, iteration - 1, weight, exclude_old_segments=exclude_old, objective=recipe.objective.name)
        for group in groups
    ]
    pods = [PodShares(trainer.pod, trainer.record.shares) for trainer in run.trainers.trainers]
    seed = derive_seed(recipe.seed, iteration, "batch", 0)
    return plan_batch(samples, pods, recipe.objective.steps_per_iteration, seed)


def _requests(run: Run, batch: Batch, iteration: int) -> Mapping[str, TrainRequest]:
    return {
        pod: TrainRequest(
            epoch=run.switcher.epoch,
            generation=iteration - 1,
            max_logprob_difference=run.max_logprob_difference,
            steps=steps,
            samples_per_step=batch.samples_per_step,
        )
        for pod, steps in batch.steps.items()
    }


def _trained(groups: Sequence[Sequence[Outcome]], batch: Batch, response: TrainResponse) -> Trained:
    return Trained(
        trajectory_ids=tuple(outcome.trajectory.id for group in groups for outcome in group),
        marks=tuple(tuple(outcome.marks for outcome in group) for group in groups),
        num_samples=batch.num_samples,
        loss=fmean(step.loss for step in response.steps) if response.steps else 0.0,
        gradient_norm=fmean(step.gradient_norm for step in response.steps) if response.steps else 0.0,
        learning_rate=response.steps[-1].learning_rate if response.steps else None,
        kl=response.kl,
        max_abs_logprob_difference=response.max_abs_logprob_difference,
        num_logprobs=response.num_logprobs,
    )
