"""What a trainer's ranks are told, and what is said of their answers."""

import logging
from collections.abc import Sequence

from tandem_api.engine import SaveStep, TrainRequest
from tandem_checkpoint.process.commands import Moved, Save, Saved, Train
from tandem_checkpoint.process.ranks import RankGroup

logger = logging.getLogger(__name__)


def train_order(request: TrainRequest, share: int) -> Train:
    """Return what one rank is told: ranks that hold the model together are given the same share.

    Iteration i trains from generation i - 1.
    """
    return Train(
        max_logprob_difference=request.max_logprob_difference,
        iteration=request.generation + 1,
        steps=tuple(step[share] for step in request.steps),
        samples_per_step=request.samples_per_step,
    )


async def save_policy(group: RankGroup, path: str, step: SaveStep, is_whole: bool) -> Saved:
    """Take a step of saving, or all. If each rank holds all weights the first one saves them, else each its share."""
    if is_whole:
        return await group.ask_first(Save(path=path), Saved)
    if step is SaveStep.WRITE:
        return (await group.ask(lambda _: Save(path=path, step=step), Saved))[0]
    if step is not SaveStep.ALL:
        return await group.ask_first(Save(path=path, step=step), Saved)
    for each in (SaveStep.PREPARE, SaveStep.WRITE):
        await save_policy(group, path, each, is_whole)
    return await save_policy(group, path, SaveStep.COMMIT, is_whole)


def log_freed(moved: Sequence[Moved]) -> None:
    """Say how much of what should be free is free, as far as it was measured."""
    freed = [answer.freed for answer in moved if answer.freed is not None]
    measured, expected = sum(item.measured_bytes for item in freed), sum(item.expected_bytes for item in freed)
    logger.info("offloaded: %d of %d bytes measured as freed", measured, expected)
