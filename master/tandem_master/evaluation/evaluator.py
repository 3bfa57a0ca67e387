"""The evaluations of a run: which are due, who is asked, what is told of them."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic, time

from tandem_api.history import EvaluationRecord
from tandem_api.job.status import EvaluationStatus
from tandem_master.evaluation.asking import Asking
from tandem_master.evaluation.best import deciding_set, ranked
from tandem_master.evaluation.estimate import Estimate, estimate
from tandem_master.evaluation.held_out import HeldOutSet
from tandem_master.evaluation.store import EvaluationStore
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.server import CompletionApi
from tandem_master.run import Run
from tandem_master.tasks import together

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Measures generations of one run on its held-out sets. Of one set and generation there is one result, ever."""

    run: Run

    @property
    def sets(self) -> tuple[HeldOutSet, ...]:
        return self.run.held_out

    @property
    def store(self) -> EvaluationStore:
        return self.run.evaluations

    async def begin(self, generation: int) -> None:
        """Take up the evaluations of a run that goes on from `generation`: those of later ones are void."""
        await asyncio.to_thread(self.store.rollback, generation)
        results = await asyncio.to_thread(self.store.results)
        self.run.board.show(evaluations=_newest(results, {item.name for item in self.sets}))
        for record in await asyncio.to_thread(self.run.journal.untold, results):
            await self.run.journal.write(record)
        await self._rank()

    async def due(self, generation: int) -> tuple[HeldOutSet, ...]:
        """Return the sets that are to measure a generation and have not yet."""
        if not self.sets:
            return ()
        last = self.run.spec.recipe.iterations
        results = await asyncio.to_thread(self.store.results)
        known = {record.name for record in results if record.generation == generation}
        return tuple(item for item in self.sets if item.is_due(generation, last) and item.name not in known)

    def wants_checkpoint(self, generation: int) -> bool:
        """Return whether a generation may become the best: it is kept until its evaluation has told."""
        best = self.run.spec.checkpoints.keep_best
        if best is None:
            return False
        name = deciding_set(best, self.run.spec.data.evaluation).name
        return any(item.name == name and item.is_due(generation, 0) for item in self.sets)

    async def evaluate(self, pool: ServerPool, generation: int) -> None:
        """Measure the generation that the servers of `pool` hold, by all sets that are due. Errors: RolloutError."""
        sets = await self.due(generation)
        await together((self._evaluate(item, pool, generation) for item in sets), name="evaluate")

    async def _evaluate(self, held_out: HeldOutSet, pool: ServerPool, generation: int) -> None:
        started = monotonic()
        asking = Asking(self.run, held_out, generation)
        ahead = Ahead(CompletionApi(self.run.client, held_out.temperature), await asyncio.to_thread(asking.first_asks))
        try:
            async with asyncio.timeout(held_out.spec.deadline_seconds):
                await Dispatcher(ahead, pool, asking.deliver).run()
        except TimeoutError:
            await self._give_up(held_out, generation, monotonic() - started)
            return
        samples = await asyncio.to_thread(self.store.samples, held_out.name, held_out.digest, generation)
        found = estimate(samples, held_out.spec.samples_per_problem)
        await self._tell(held_out, _record(held_out, generation, found, monotonic() - started))

    async def _give_up(self, held_out: HeldOutSet, generation: int, seconds: float) -> None:
        limit = held_out.spec.deadline_seconds
        error = f"took more than {limit:g} s; raise spec.data.evaluation[{held_out.name}].deadlineSeconds or ask less"
        logger.error("evaluation %s of generation %d: %s", held_out.name, generation, error)
        await self._tell(held_out, _record(held_out, generation, estimate((), 1), seconds, error))

    async def _tell(self, held_out: HeldOutSet, record: EvaluationRecord) -> None:
        if not await asyncio.to_thread(self.store.finish, held_out.digest, record):
            return
        await self.run.journal.write(record)
        logger.info("%s", describe(record))
        results = await asyncio.to_thread(self.store.results)
        self.run.board.show(evaluations=_newest(results, {item.name for item in self.sets}))
        await self._rank()

    async def _rank(self) -> None:
        """Tell the checkpoints which generations did best, where one is to be kept for that."""
        best = self.run.spec.checkpoints.keep_best
        if best is None:
            return
        name = deciding_set(best, self.run.spec.data.evaluation).name
        held_out = next(item for item in self.sets if item.name == name)
        results = await asyncio.to_thread(self.store.results, name, held_out.digest)
        await self.run.checkpoints.prefer(ranked(results, best.metric))


def describe(record: EvaluationRecord) -> str:
    """Return a result in one line for people."""
    head = f"evaluation {record.name} of generation {record.generation}"
    if record.error:
        return f"{head}: {record.error}"
    passed = ", ".join(f"pass@{k} {value:.3f}" for k, value in record.pass_at.items()) or "no sample was scored"
    unscored = f", {record.unscored} not scored" if record.unscored else ""
    return f"{head}: {passed}, reward {record.mean_reward:.3f}, {record.mean_tokens:.1f} tokens{unscored}"


def _newest(results: Iterable[EvaluationRecord], names: set[str]) -> tuple[EvaluationStatus, ...]:
    newest = {record.name: record for record in results if record.name in names and not record.error}
    return tuple(
        EvaluationStatus(
            name=record.name,
            generation=record.generation,
            pass1=round(record.pass_1, 4),
            mean_reward=round(record.mean_reward, 4),
        )
        for record in newest.values()
    )


def _record(
    held_out: HeldOutSet, generation: int, found: Estimate, seconds: float, error: str = ""
) -> EvaluationRecord:
    return EvaluationRecord(
        at=time(),
        name=held_out.name,
        generation=generation,
        problems=found.num_problems,
        samples=found.num_samples,
        unscored=found.num_unscored,
        pass_at=dict(found.pass_at),
        mean_reward=found.mean_reward,
        mean_tokens=found.mean_tokens,
        cut_share=found.cut_share,
        sampled_tokens=found.num_tokens,
        seconds=seconds,
        error=error,
    )
