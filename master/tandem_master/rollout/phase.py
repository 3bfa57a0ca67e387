"""The rollout of one Infer phase: ask, score, write down, until every trajectory is finished or has used its budget."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tandem_api.history import PhaseEnd
from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer.outcome import Outcome
from tandem_master.buffer.store import IterationTotals
from tandem_master.garbage import kept_aside
from tandem_master.grouped import Grouped
from tandem_master.rewards.scoring import Score
from tandem_master.rewards.verdict import Question
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.capacity import read_capacities
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.ending import Ending
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Piece, extend, plan_asks
from tandem_master.rollout.server import CompletionApi
from tandem_master.rollout.sieve import Sieve
from tandem_master.run import Run
from tandem_master.serving import Servers, Serving
from tandem_master.tasks import alongside, side_by_side, together
from tandem_master.turns import short_turns

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutSummary:
    """What one rollout did."""

    num_tokens: int
    seconds: float
    end: PhaseEnd
    """Why it ended."""
    num_cut: int = 0
    """Trajectories that a server was still working on then, with a token at least."""
    num_cut_tokens: int = 0
    """What it had sampled of them for the last request."""

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


class Rollout:
    """Takes in the answers of one Infer phase and counts them."""

    def __init__(self, run: Run, iteration: int, totals: IterationTotals, ending: Ending) -> None:
        self._run = run
        self._iteration = iteration
        self._sieve = Sieve(run, iteration)
        self._ending = ending
        self._rule = run.stop_rule
        self._texts = Grouped(run.catalogue.text.decode_all, "decode")
        self._num_finished = totals.num_finished
        self._num_unfinished = 0
        self.num_wanted = totals.num_finished + totals.num_unfinished
        self.num_tokens = 0
        self.num_cut = 0
        self.num_cut_tokens = 0
        self._look_whether_enough()

    async def deliver(self, pieces: Sequence[Piece]) -> Sequence[Ask]:
        """Score what has finished and make all of it durable; only then does it count. Return what else to ask for."""
        outcomes = await side_by_side([self._outcome(piece.trajectory, piece.completion) for piece in pieces])
        await self._run.buffer.recorded(self._iteration, outcomes)
        cut = aborted(outcomes, pieces)
        num_unfinished = sum(outcome.trajectory.state is TrajectoryState.UNFINISHED for outcome in outcomes)
        self._num_finished += len(outcomes) - num_unfinished
        grown = [_growth(outcome, piece) for outcome, piece in zip(outcomes, pieces, strict=True)]
        self.num_tokens += sum(grown)
        others: tuple[Trajectory, ...] = ()
        if num_unfinished < len(outcomes):
            others = await self._sieve.sift(pieces[0].trajectory.group)
        self.num_wanted += len(others)
        if self._ending.has_struck:
            self._count_cut(pieces, grown)
            cut = ()
        self._num_unfinished += num_unfinished - len(cut)
        self._look_whether_enough()
        return _asks(self._run, (*cut, *others), self._iteration)

    def _count_cut(self, pieces: Sequence[Piece], grown: Sequence[int]) -> None:
        reasons = [piece.completion.finish_reason for piece in pieces]
        cut = [num for num, reason in zip(grown, reasons, strict=True) if reason is FinishReason.ABORT and num]
        self.num_cut += len(cut)
        self.num_cut_tokens += sum(cut)

    def _look_whether_enough(self) -> None:
        if self._rule.is_enough(self._num_finished, self.num_wanted):
            self._ending.strike(PhaseEnd.SHARE)
        self._run.board.show(
            completed_trajectories=self._num_finished,
            wanted_trajectories=self.num_wanted,
            unfinished_trajectories=self._num_unfinished,
        )

    async def _outcome(self, trajectory: Trajectory, completion: Completion) -> Outcome:
        run = self._run
        if run.spec.rollout.deterministic and completion.finish_reason is FinishReason.ABORT:
            return Outcome(trajectory, correct=None)  # how much there is of it depends on the time it was cut at
        longer = extend(trajectory, completion, self._iteration - 1, run.limits)
        if longer.state is not TrajectoryState.FINISHED:
            return Outcome(longer, correct=None)
        score = await self._score(longer)
        if score.reward is None:
            return Outcome(longer.model_copy(update={"state": TrajectoryState.UNSCORED}), None, score.terms)
        return Outcome(longer.model_copy(update={"reward": score.reward}), score.correct, score.terms)

    async def _score(self, trajectory: Trajectory) -> Score:
        run = self._run
        if trajectory.finish_reason == FinishReason.REPEAT:
            return Score(-run.spec.recipe.repeats.penalty, correct=False)
        problem = run.catalogue.problem(trajectory.problem_id)
        response = await self._texts.done(trajectory.response_token_ids)
        return await run.scorer.score(
            Question(problem_id=trajectory.problem_id, prompt=problem.prompt, response=response, answer=problem.answer)
        )


def _growth(outcome: Outcome, piece: Piece) -> int:
    """Return how many tokens are kept of what was sampled."""
    return outcome.trajectory.num_response_tokens - piece.trajectory.num_response_tokens


def aborted(outcomes: Sequence[Outcome], pieces: Sequence[Piece]) -> tuple[Trajectory, ...]:
    """Return the trajectories, as they are now, whose answer was cut: the server was lost, or another one in it
    repeated itself.
    """
    return tuple(
        outcome.trajectory
        for outcome, piece in zip(outcomes, pieces, strict=True)
        if piece.completion.finish_reason is FinishReason.ABORT
        and outcome.trajectory.state is TrajectoryState.UNFINISHED
    )


Beside = Callable[[ServerPool], Coroutine[Any, Any, None]]
"""What else is asked of the servers of a rollout."""


async def _nothing_beside(pool: ServerPool) -> None:
    """Ask for nothing but the rollouts."""


@asynccontextmanager
async def planned(run: Run, iteration: int) -> AsyncIterator[Ahead]:
    """Plan the requests that sample with generation iteration - 1 whatever is unfinished; give what sends them ahead.

    What waits for an answer at the end of the context is cancelled.
    """
    await Sieve(run, iteration).sift_all()
    ending = Ending()
    api = CompletionApi(run.client, run.spec.recipe.temperature, run.repeat_rule, ending.heard)
    with kept_aside():
        unfinished = await asyncio.to_thread(run.buffer.unfinished)
        ahead = Ahead(api, _asks(run, unfinished, iteration), ending)
    try:
        with kept_aside(), short_turns():
            yield ahead
    finally:
        await ahead.close()


async def roll_out(
    run: Run, serving: Serving, ahead: Ahead, iteration: int, beside: Beside = _nothing_beside
) -> RolloutSummary:
    """Have the servers answer what is planned, to its end or to that of the phase, and all that `beside` asks of them.

    Errors: RolloutError, and those of `beside`.
    """
    run.board.show(activity="sampling")
    totals = await asyncio.to_thread(run.buffer.totals, iteration)
    rollout = Rollout(run, iteration, totals, ahead.ending)
    servers = serving.servers()
    ahead.keep(servers)
    pool = ServerPool(servers, await read_capacities(run.client, tuple(servers)))
    dispatcher = Dispatcher(ahead, pool, rollout.deliver)
    companions = [_follow(run, serving, servers, pool), _tell_the_end(run, ahead.ending)]
    if run.stop_rule.deadline_seconds is not None:
        companions.append(ahead.ending.strike_after(run.stop_rule.deadline_seconds))
    work = (_timed(dispatcher.run()), _timed(beside(pool)))
    seconds, _ = await alongside(together(work, name="infer"), *companions)
    summary = RolloutSummary(rollout.num_tokens, seconds, ahead.ending.reason, rollout.num_cut, rollout.num_cut_tokens)
    _log(summary, iteration, rollout.num_wanted, pool.num_answers)
    return summary


def _log(summary: RolloutSummary, iteration: int, num_wanted: int, num_answers: Mapping[str, int]) -> None:
    logger.info(
        "iteration %d: %d trajectories, %d tokens sampled; requests answered: %s",
        *(iteration, num_wanted, summary.num_tokens),
        ", ".join(f"{server} {count}" for server, count in sorted(num_answers.items())),
    )
    if summary.end is not PhaseEnd.ALL:
        logger.info("%s; %d go on after %d tokens", summary.end.text, summary.num_cut, summary.num_cut_tokens)


async def _tell_the_end(run: Run, ending: Ending) -> None:
    """Say that the phase ends before its time, as soon as it does."""
    await ending.struck()
    run.board.show(activity=f"sampling: {ending.reason.text}")


async def ask_servers(run: Run, serving: Serving, beside: Beside) -> None:
    """Have the servers answer `beside` alone. Errors: RolloutError, and its own."""
    servers = serving.servers()
    pool = ServerPool(servers, await read_capacities(run.client, tuple(servers)))
    await alongside(beside(pool), _follow(run, serving, servers, pool))


def _asks(run: Run, trajectories: Sequence[Trajectory], iteration: int) -> tuple[Ask, ...]:
    seed, alone = run.spec.recipe.seed, run.spec.rollout.deterministic
    return plan_asks(trajectories, iteration - 1, run.limits, seed=seed, iteration=iteration, alone=alone)


async def _timed(work: Coroutine[Any, Any, None]) -> float:
    """Return the seconds that some work took."""
    started = monotonic()
    await work
    return monotonic() - started


async def _follow(run: Run, serving: Serving, known: Servers, pool: ServerPool) -> None:
    """Keep the pool at who serves, until cancelled."""
    while True:
        known = await serving.changed(known)
        pool.let_go(known)
        pool.update(known, await read_capacities(run.client, pool.strangers(known)))
