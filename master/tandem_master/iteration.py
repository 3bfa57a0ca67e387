"""One iteration: draw, sample, train, commit (report, section 2.6.1).

Iteration i samples with generation i - 1 and makes generation i, which the next change to Infer publishes.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from time import monotonic, time

from tandem_api.history import IterationRecord, SelfTestRecord
from tandem_api.job.status import MANY_SILENT_ITERATIONS, Phase, describe_silence
from tandem_master.buffer.outcome import Marks
from tandem_master.data.catalogue import open_groups
from tandem_master.evaluation.evaluator import Evaluator
from tandem_master.rewards.group import length_weight
from tandem_master.rollout.phase import RolloutSummary, planned, roll_out
from tandem_master.rollout.sieve import has_signal
from tandem_master.run import Run
from tandem_master.sampling.mixture import Drawing, draw_problems
from tandem_master.sampling.state import Draw
from tandem_master.training import Trained, train

logger = logging.getLogger(__name__)

MOST_LOOKED_BACK = 100
"""Iterations that a master which takes over looks back for rewards that differ."""
SWITCH_GRACE_SECONDS = 5.0
"""Time that a running switch gets to end after a stop."""


async def run_iteration(run: Run, iteration: int) -> None:
    """Run `iteration` to its commit. Errors: those of its parts; Stopped before the commit, never after it."""
    started = monotonic()
    await draw(run, iteration)
    run.board.show(activity="changing to inference", completed_trajectories=0, wanted_trajectories=0)
    async with planned(run, iteration) as ahead:
        to_infer = run.switcher.to_infer(iteration - 1, iteration, ahead.follow)
        serving = await run.stop.bound(to_infer, grace_seconds=SWITCH_GRACE_SECONDS)
        run.stop.check()
        equal_tensors = serving.equal_tensors()
        run.board.show(generation=iteration - 1)
        show_switch(run, Phase.INFER)
        # Held-out problems are asked beside the rollouts: after them they would have a tail of their own, in which
        # servers idle; before them they would keep the rollouts waiting.
        evaluate = partial(Evaluator(run).evaluate, generation=iteration - 1)
        rollout = await run.stop.bound(roll_out(run, serving, ahead, iteration, evaluate), grace_seconds=0.0)
    run.stop.check()
    run.board.show(activity="changing to training")
    to_train = run.switcher.to_train(iteration - 1, iteration)
    await run.stop.bound(to_train, grace_seconds=SWITCH_GRACE_SECONDS)
    show_switch(run, Phase.TRAIN)
    run.stop.check()
    trained = await train(run, iteration)
    if equal_tensors is not None:
        await report_self_test(run, iteration, equal_tensors, trained)
    await commit(run, iteration, rollout, trained, seconds=monotonic() - started)


async def report_self_test(run: Run, iteration: int, equal_tensors: int, trained: Trained) -> None:
    """Write down what the self-test of this iteration's hand-over has compared: its tensors, then its samples."""
    record = SelfTestRecord(
        at=time(),
        iteration=iteration,
        generation=iteration - 1,
        tensors=equal_tensors,
        logprobs=trained.num_logprobs,
        max_abs_logprob_difference=trained.max_abs_logprob_difference,
    )
    logger.info("%s", record.text)
    run.board.show(self_test=record.text)
    await run.journal.write(record)


def show_switch(run: Run, phase: Phase) -> None:
    """Tell the operator and the command line which phase a switch has led into."""
    run.board.show(phase=phase, epoch=run.switcher.epoch, switches=run.switcher.recent)


async def draw(run: Run, iteration: int) -> None:
    """Choose the problems of `iteration` and write them down, unless an interrupted run has done so.

    None are chosen where an iteration's worth of groups waits for its first token: Infer phases that are ended before
    everything was asked for would else leave more behind each time.
    """
    if await asyncio.to_thread(run.buffer.draw_of, iteration) is not None:
        return
    recipe = run.spec.recipe
    before = await asyncio.to_thread(run.buffer.draw_of, iteration - 1)
    tallies = await asyncio.to_thread(run.buffer.tallies)
    drawing = Drawing(recipe.sampling, recipe.problems_per_iteration, recipe.seed)
    positions = before.positions if before else {}
    if await asyncio.to_thread(run.buffer.num_untouched_groups) < recipe.problems_per_iteration:
        drawn = draw_problems(run.catalogue.sets, drawing, iteration, positions, tallies)
    else:
        logger.info("iteration %d draws no problem: those of earlier ones have not been asked for", iteration)
        drawn = Draw((), positions)
    trajectories = open_groups(run.catalogue, drawn.problem_ids, recipe.samples_per_problem, iteration)
    await asyncio.to_thread(run.buffer.begin, iteration, drawn, trajectories)


def signal_in(run: Run, iteration: int, others: Sequence[Sequence[Marks]] = ()) -> list[bool]:
    """Return for each group that the buffer says `iteration` trained or left out, and for `others`, whether it had a
    gradient.
    """
    weight = length_weight(run.spec.recipe.length_reward, iteration)
    return [has_signal(group, weight) for group in (*run.buffer.marks_in(iteration), *others)]


def silent_iterations(before: int, signal: Sequence[bool]) -> int:
    """Return how many iterations in a row had no gradient: `before` without the newest, whose groups are `signal`.

    One in which no group became complete tells nothing.
    """
    if any(signal):
        return 0
    return before + 1 if signal else before


def known_silence(run: Run, generation: int) -> int:
    """Return silent_iterations after iteration `generation`, as the buffer tells; 100 where it is more."""
    silent = 0
    for iteration in range(max(1, generation - MOST_LOOKED_BACK + 1), generation + 1):
        silent = silent_iterations(silent, signal_in(run, iteration))
    return silent


async def commit(run: Run, iteration: int, rollout: RolloutSummary, trained: Trained, *, seconds: float) -> None:
    """Make the iteration count, then tell everybody.

    Its record is committed with it: where this master is killed before it is in the diary, the next one writes it.
    """
    totals = await asyncio.to_thread(run.buffer.totals, iteration)
    drawn = await asyncio.to_thread(run.buffer.draw_of, iteration)
    signal = await asyncio.to_thread(signal_in, run, iteration, trained.marks)
    record = IterationRecord(
        iteration=iteration,
        generation=iteration,
        at=time(),
        seconds=seconds,
        reward=totals.mean_reward,
        response_tokens=totals.mean_response_tokens,
        finished=totals.num_finished,
        unfinished=totals.num_unfinished,
        trained=trained.num_samples,
        sampled_tokens=totals.num_sampled_tokens,
        rollout_end=rollout.end,
        cut=rollout.num_cut,
        cut_tokens=rollout.num_cut_tokens,
        repeats=totals.num_repeats,
        groups=len(signal),
        groups_without_signal=signal.count(False),
        refills=max(0, len(drawn.problem_ids) - run.spec.recipe.problems_per_iteration) if drawn else 0,
        tokens_per_second=rollout.tokens_per_second,
        max_abs_logprob_difference=trained.max_abs_logprob_difference,
        kl=trained.kl,
        loss=trained.loss,
        gradient_norm=trained.gradient_norm,
        learning_rate=trained.learning_rate,
    )
    await asyncio.to_thread(run.buffer.commit, iteration, trained.trajectory_ids, record.model_dump_json())
    await run.journal.write(record)
    silent = silent_iterations(run.board.progress.silent_iterations, signal)
    if silent and silent % MANY_SILENT_ITERATIONS == 0:
        logger.warning("iteration %d: %s", iteration, describe_silence(silent))
    run.board.show(
        activity="committed",
        silent_iterations=silent,
        iteration=iteration,
        unfinished_trajectories=totals.num_unfinished,
        reward=totals.mean_reward,
        tokens_per_second=rollout.tokens_per_second,
    )
