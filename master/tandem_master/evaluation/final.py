"""The evaluation of the final policy, after the last iteration."""

import logging
from functools import partial

from tandem_api.job.status import Phase
from tandem_master.errors import Recoverable
from tandem_master.evaluation.evaluator import Evaluator
from tandem_master.iteration import show_switch
from tandem_master.rollout.phase import ask_servers
from tandem_master.run import Run

logger = logging.getLogger(__name__)

MOST_TRIES = 6
PAUSE_SECONDS = 1.0
"""Pause before the second try; it grows by as much with each."""


async def evaluate_final(run: Run, generation: int) -> None:
    """Measure the final policy, which no iteration samples with. All is saved by now: where it fails again and again,
    the job is complete without it. Errors: Stopped, and what ends a run.
    """
    if not await Evaluator(run).due(generation):
        return
    try:
        for number in range(1, MOST_TRIES + 1):
            run.stop.check()
            try:
                return await run.stop.bound(_evaluated(run, generation), grace_seconds=0.0)
            except Recoverable as error:
                logger.error("final evaluation, try %d of %d: %s", number, MOST_TRIES, error)
                await run.stop.within(PAUSE_SECONDS * number)
        logger.error("the final policy was not evaluated; `tandem up --resume` tries again")
    finally:
        await run.switcher.end_phase()


async def _evaluated(run: Run, generation: int) -> None:
    """Have the servers take a generation that nobody rolls out, and measure it."""
    run.board.show(activity="changing to inference")
    serving = await run.switcher.to_infer(generation, generation)
    show_switch(run, Phase.INFER)
    run.board.show(activity="evaluating the final policy", generation=generation)
    await ask_servers(run, serving, partial(Evaluator(run).evaluate, generation=generation))
