"""Dynamic sampling: groups whose samples are all worth the same teach nothing, and make room for other problems."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from tandem_api.trajectory import Trajectory
from tandem_master.buffer.outcome import Marks
from tandem_master.data.catalogue import open_groups
from tandem_master.rewards.group import length_weight, rewards_with_length
from tandem_master.run import Run
from tandem_master.sampling.mixture import Drawing, draw_again
from tandem_master.sampling.state import Draw, Tally

logger = logging.getLogger(__name__)


class Sieve:
    """Looks at each group of one iteration when it is complete; lets all of them pass where the spec wants none out."""

    def __init__(self, run: Run, iteration: int) -> None:
        self._run = run
        self._iteration = iteration
        self._dynamic = run.spec.recipe.sampling.dynamic
        self._length_weight = length_weight(run.spec.recipe.length_reward, iteration)
        self._lock = asyncio.Lock()
        self._tallies: Mapping[str, Tally] | None = None

    async def sift_all(self) -> None:
        """Look at every group that an interrupted try of the iteration has left complete, and draw what it has not."""
        if not self._dynamic.enabled:
            return
        for group in await asyncio.to_thread(self._run.buffer.complete_group_ids):
            await self.sift(group)
        async with self._lock:
            await self._refill(await asyncio.to_thread(self._run.buffer.num_rejected, self._iteration))

    async def sift(self, group: str) -> tuple[Trajectory, ...]:
        """Leave a group out of training if it is complete and without signal; return what is sampled in its place.

        Safe from many tasks at once. All of it is in the buffer before it is returned.
        """
        if not self._dynamic.enabled:
            return ()
        async with self._lock:
            marks = await asyncio.to_thread(self._run.buffer.marks_of, group)
            if not marks or has_signal(marks, self._length_weight):
                return ()
            num_rejected = await asyncio.to_thread(self._run.buffer.reject, self._iteration, group)
            return await self._refill(num_rejected)

    async def _refill(self, num_rejected: int) -> tuple[Trajectory, ...]:
        """Draw problems until there are as many more as groups were left out, or as the spec allows."""
        run, recipe = self._run, self._run.spec.recipe
        most = max_refills(recipe.problems_per_iteration, self._dynamic.refill_share)
        drawn = await asyncio.to_thread(run.buffer.draw_of, self._iteration)
        assert drawn is not None, "an iteration samples what it has drawn"
        num_known, num_wanted = len(drawn.problem_ids), recipe.problems_per_iteration + min(num_rejected, most)
        if num_known >= num_wanted or not num_known:  # one that has drawn nothing has enough to ask for
            return ()
        if self._tallies is None:  # those of committed iterations, which do not change in this one
            self._tallies = await asyncio.to_thread(run.buffer.tallies)
        drawing = Drawing(recipe.sampling, recipe.problems_per_iteration, recipe.seed)
        while len(drawn.problem_ids) < num_wanted:
            drawn = draw_again(run.catalogue.sets, drawing, self._iteration, drawn, self._tallies)
        opened = self._opened(drawn, num_known)
        await asyncio.to_thread(run.buffer.draw_more, self._iteration, drawn, opened)
        return opened

    def _opened(self, drawn: Draw, num_known: int) -> tuple[Trajectory, ...]:
        """Return the trajectories of what was drawn after the first `num_known` problems."""
        num_samples = self._run.spec.recipe.samples_per_problem
        opened = open_groups(self._run.catalogue, drawn.problem_ids, num_samples, self._iteration)
        known = open_groups(self._run.catalogue, drawn.problem_ids[:num_known], num_samples, self._iteration)
        return opened[len(known) :]


def has_signal(group: Sequence[Marks], length_weight: float) -> bool:
    """Return whether a group has a gradient: not all its members are worth the same, the length reward included."""
    total = rewards_with_length(
        np.array([marks.reward for marks in group]),
        np.array([marks.num_tokens for marks in group]),
        np.array([marks.correct for marks in group]),
        length_weight,
    )
    return bool(total.min() < total.max())


def max_refills(num_problems: int, share: float) -> int:
    """Return how many problems an iteration may draw in place of others."""
    return ceil(num_problems * share)
