"""One evaluation of one held-out set: ask for what is missing, score it, write it down."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.errors import RolloutError
from tandem_master.evaluation.estimate import Sample
from tandem_master.evaluation.held_out import HeldOutSet
from tandem_master.rewards.verdict import Question
from tandem_master.rollout.segments import Ask, Completion, Limits, Piece, derive_seed, extend
from tandem_master.run import Run

MOST_FRUITLESS = 5
"""Answers without a token to one sample, before the servers are thought to be broken."""


class Asking:
    """The samples of one set by one generation; those that an interrupted evaluation left are not asked for again.

    A response is as long as the policy's limit lets it be. No single request is for more than the recipe's token
    budget: what is not complete is asked for again at once, so that every request is as long as a rollout's, and a
    server that dies costs no more than one.
    """

    def __init__(self, run: Run, held_out: HeldOutSet, generation: int) -> None:
        self._run = run
        self._store = run.evaluations
        self._set = held_out
        self._problems = {problem.id: problem for problem in held_out.problems}
        self._generation = generation
        self._numbers: dict[str, int] = {}
        """Trajectory id to the number of the sample."""
        self._fruitless: Counter[str] = Counter()
        limit = run.catalogue.max_length_tokens
        self._limits = Limits(budget_tokens=limit, max_length_tokens=limit)

    def first_asks(self) -> tuple[Ask, ...]:
        """Return what to ask for: one request a problem, for the samples of it that are not there. Blocks."""
        held, generation = self._set, self._generation
        known = {
            (sample.problem_id, sample.number) for sample in self._store.samples(held.name, held.digest, generation)
        }
        asks: list[Ask] = []
        for problem in held.problems:
            numbers = [n for n in range(held.spec.samples_per_problem) if (problem.id, n) not in known]
            trajectories = tuple(held.trajectory(problem.id, number, generation) for number in numbers)
            self._numbers.update(zip((item.id for item in trajectories), numbers, strict=True))
            if self._run.spec.rollout.deterministic:
                asks += [self._ask((item,)) for item in trajectories]
            elif trajectories:
                asks.append(self._ask(trajectories))
        return tuple(asks)

    async def deliver(self, pieces: Sequence[Piece]) -> Sequence[Ask]:
        """Write down the samples that are complete, and return requests for the rest of the others."""
        longer = [self._extended(piece.trajectory, piece.completion) for piece in pieces]
        complete = [item for item in longer if item.state is TrajectoryState.FINISHED]
        samples = await asyncio.gather(*(self._sample(item) for item in complete))
        held = self._set
        await asyncio.to_thread(self._store.record, held.name, held.digest, self._generation, samples)
        return tuple(self._ask((item,)) for item in longer if item.state is not TrajectoryState.FINISHED)

    def _extended(self, trajectory: Trajectory, completion: Completion) -> Trajectory:
        longer = extend(trajectory, completion, self._generation, self._limits)
        if longer.state is not TrajectoryState.FINISHED and not completion.token_ids:
            self._fruitless[trajectory.id] += 1
            if self._fruitless[trajectory.id] >= MOST_FRUITLESS:
                raise RolloutError(
                    f"spec.data.evaluation[{self._set.name}]: servers answered {MOST_FRUITLESS} times without a token"
                )
        return longer

    async def _sample(self, trajectory: Trajectory) -> Sample:
        text = self._run.catalogue.text.decode(trajectory.response_token_ids)
        problem = self._problems[trajectory.problem_id]
        score = await self._run.scorer.score(
            Question(problem_id=problem.id, prompt=problem.prompt, response=text, answer=problem.answer)
        )
        return Sample(
            problem_id=problem.id,
            number=self._numbers[trajectory.id],
            num_tokens=trajectory.num_response_tokens,
            finish_reason=trajectory.finish_reason or "",
            reward=score.reward,
            correct=score.correct,
        )

    def _ask(self, trajectories: tuple[Trajectory, ...]) -> Ask:
        recipe, first = self._run.spec.recipe, trajectories[0]
        token_ids = first.prompt_token_ids + first.response_token_ids
        return Ask(
            trajectories=trajectories,
            token_ids=token_ids,
            max_tokens=min(recipe.partial_rollout.token_budget, self._limits.max_length_tokens - len(token_ids)),
            seed=derive_seed(recipe.seed, self._generation, first.id, first.num_response_tokens),
        )
