"""The rollout of one Infer phase: ask, score, write down, until every trajectory is finished or has used its budget."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer.store import Outcome
from tandem_master.rewards.scoring import Score
from tandem_master.rewards.verdict import Question
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.dispatch import dispatch
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Completion, FinishReason, extend, plan_asks
from tandem_master.rollout.server import CompletionApi
from tandem_master.rollout.sieve import Sieve
from tandem_master.run import Run
from tandem_master.serving import Servers, Serving
from tandem_master.tasks import alongside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutSummary:
    """What one rollout did."""

    num_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


class Rollout:
    """Takes in the answers of one Infer phase and counts them."""

    def __init__(self, run: Run, iteration: int, *, num_finished: int, num_asked: int) -> None:
        self._run = run
        self._iteration = iteration
        self._sieve = Sieve(run, iteration)
        self._num_known = num_finished
        self._num_finished = num_finished
        self._num_unfinished = 0
        self.num_asked = num_asked
        self.num_tokens = 0
        self._show()

    async def deliver(self, ask: Ask, completions: tuple[Completion, ...]) -> Sequence[Ask]:
        """Score what has finished and make all of it durable; only then does it count. Return what else to ask for."""
        pairs = zip(ask.trajectories, completions, strict=True)
        outcomes = await asyncio.gather(*(self._outcome(trajectory, completion) for trajectory, completion in pairs))
        await self._run.buffer.recorded(self._iteration, outcomes)
        cut = _asks(self._run, cut_short(outcomes, completions), self._iteration)
        num_finished = sum(outcome.trajectory.state is not TrajectoryState.UNFINISHED for outcome in outcomes)
        self._num_finished += num_finished
        self._num_unfinished += len(outcomes) - num_finished - sum(len(item.trajectories) for item in cut)
        self.num_tokens += sum(len(completion.token_ids) for completion in completions)
        others = await self._sieve.sift(ask.trajectories[0].group)
        self.num_asked += len(others)
        self._show()
        return (*cut, *_asks(self._run, others, self._iteration))

    def _show(self) -> None:
        self._run.board.show(
            completed_trajectories=self._num_finished,
            wanted_trajectories=self._num_known + self.num_asked,
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
        response = run.catalogue.text.decode(trajectory.response_token_ids)
        return await run.scorer.score(
            Question(problem_id=trajectory.problem_id, prompt=problem.prompt, response=response, answer=problem.answer)
        )


def cut_short(outcomes: Sequence[Outcome], completions: Sequence[Completion]) -> tuple[Trajectory, ...]:
    """Return the trajectories that go on at once: their answer was cut because another one in it repeated itself."""
    if not any(completion.finish_reason is FinishReason.REPEAT for completion in completions):
        return ()
    return tuple(
        outcome.trajectory
        for outcome, completion in zip(outcomes, completions, strict=True)
        if completion.finish_reason is FinishReason.ABORT and outcome.trajectory.state is TrajectoryState.UNFINISHED
    )


@asynccontextmanager
async def planned(run: Run, iteration: int) -> AsyncIterator[Ahead]:
    """Plan the requests that sample with generation iteration - 1 whatever is unfinished; give what sends them ahead.

    What waits for an answer at the end of the context is cancelled.
    """
    await Sieve(run, iteration).sift_all()
    unfinished = await asyncio.to_thread(run.buffer.unfinished)
    api = CompletionApi(run.client, run.spec.recipe.temperature, run.repeat_rule)
    ahead = Ahead(api, _asks(run, unfinished, iteration))
    try:
        yield ahead
    finally:
        await ahead.close()


async def roll_out(run: Run, serving: Serving, ahead: Ahead, iteration: int) -> RolloutSummary:
    """Have the servers answer what is planned. Errors: RolloutError."""
    started = monotonic()
    num_asked = sum(len(ask.trajectories) for ask in ahead.asks)
    num_finished = (await asyncio.to_thread(run.buffer.totals, iteration)).num_finished
    run.board.show(activity="sampling")
    rollout = Rollout(run, iteration, num_finished=num_finished, num_asked=num_asked)
    servers = serving.servers()
    pool = ServerPool(servers)
    ahead.keep(servers)
    await alongside(dispatch(ahead, pool, rollout.deliver), _follow(serving, servers, pool))
    summary = RolloutSummary(rollout.num_tokens, monotonic() - started)
    logger.info(
        "iteration %d: %d trajectories, %d tokens sampled; requests answered: %s",
        *(iteration, rollout.num_asked, summary.num_tokens),
        ", ".join(f"{server} {count}" for server, count in sorted(pool.num_answers.items())),
    )
    return summary


def _asks(run: Run, trajectories: Sequence[Trajectory], iteration: int) -> tuple[Ask, ...]:
    seed, alone = run.spec.recipe.seed, run.spec.rollout.deterministic
    return plan_asks(trajectories, iteration - 1, run.limits, seed=seed, iteration=iteration, alone=alone)


async def _follow(serving: Serving, known: Servers, pool: ServerPool) -> None:
    """Keep the pool at who serves, until cancelled."""
    while True:
        known = await serving.changed(known)
        await pool.update(known)
