"""The rollout of one Infer phase: ask, score, write down, until every trajectory is finished or has used its budget."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer.store import Outcome
from tandem_master.rewards.rule import score_response
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.dispatch import dispatch
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Completion, extend, plan_asks
from tandem_master.rollout.server import CompletionApi
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

    def __init__(self, run: Run, iteration: int, *, num_finished: int) -> None:
        self._run = run
        self._iteration = iteration
        self._num_finished = num_finished
        self._num_unfinished = 0
        self.num_tokens = 0

    async def deliver(self, ask: Ask, completions: tuple[Completion, ...]) -> None:
        """Score what has finished and make all of it durable; only then does it count."""
        outcomes = [
            self._outcome(trajectory, completion)
            for trajectory, completion in zip(ask.trajectories, completions, strict=True)
        ]
        await asyncio.to_thread(self._run.buffer.record, self._iteration, outcomes)
        num_finished = sum(outcome.trajectory.state is TrajectoryState.FINISHED for outcome in outcomes)
        self._num_finished += num_finished
        self._num_unfinished += len(outcomes) - num_finished
        self.num_tokens += sum(len(completion.token_ids) for completion in completions)
        self._run.board.show(completed_trajectories=self._num_finished, unfinished_trajectories=self._num_unfinished)

    def _outcome(self, trajectory: Trajectory, completion: Completion) -> Outcome:
        run = self._run
        longer = extend(trajectory, completion, self._iteration - 1, run.limits)
        if longer.state is not TrajectoryState.FINISHED:
            return Outcome(longer, correct=None)
        response = run.catalogue.text.decode(longer.response_token_ids)
        score = score_response(run.spec.rewards, response, run.catalogue.problem(longer.problem_id).answer)
        return Outcome(longer.model_copy(update={"reward": score.reward}), score.correct)


@asynccontextmanager
async def planned(run: Run, iteration: int) -> AsyncIterator[Ahead]:
    """Plan the requests that sample with generation iteration - 1 whatever is unfinished; give what sends them ahead.

    What waits for an answer at the end of the context is cancelled.
    """
    recipe = run.spec.recipe
    unfinished = await asyncio.to_thread(run.buffer.unfinished)
    asks = plan_asks(unfinished, iteration - 1, run.limits, seed=recipe.seed, iteration=iteration)
    ahead = Ahead(CompletionApi(run.client, recipe.temperature), asks)
    try:
        yield ahead
    finally:
        await ahead.close()


async def roll_out(run: Run, serving: Serving, ahead: Ahead, iteration: int) -> RolloutSummary:
    """Have the servers answer what is planned. Errors: RolloutError."""
    started = monotonic()
    num_asked = sum(len(ask.trajectories) for ask in ahead.asks)
    num_finished = (await asyncio.to_thread(run.buffer.totals, iteration)).num_finished
    rollout = Rollout(run, iteration, num_finished=num_finished)
    run.board.show(
        activity="sampling",
        completed_trajectories=num_finished,
        wanted_trajectories=num_finished + num_asked,
        unfinished_trajectories=0,
    )
    servers = serving.servers()
    pool = ServerPool(servers)
    ahead.keep(servers)
    await alongside(dispatch(ahead, pool, rollout.deliver), _follow(serving, servers, pool))
    summary = RolloutSummary(rollout.num_tokens, monotonic() - started)
    logger.info(
        "iteration %d: %d trajectories, %d tokens sampled; requests answered: %s",
        *(iteration, num_asked, summary.num_tokens),
        ", ".join(f"{server} {count}" for server, count in sorted(pool.num_answers.items())),
    )
    return summary


async def _follow(serving: Serving, known: Servers, pool: ServerPool) -> None:
    """Keep the pool at who serves, until cancelled."""
    while True:
        known = await serving.changed(known)
        await pool.update(known)
