"""Every problem once, in random order, before any comes again."""

from collections.abc import Sequence

import numpy as np


def draw_uniform(problem_ids: Sequence[str], position: int, num_problems: int, seed: Sequence[int]) -> tuple[str, ...]:
    """Return the problems at `position` and after it in an endless row of shuffled passes over `problem_ids`.

    The same arguments give the same problems, so a position is all that must be remembered.
    """
    drawn: list[str] = []
    while len(drawn) < num_problems:
        number, offset = divmod(position + len(drawn), len(problem_ids))
        order = np.random.default_rng([*seed, number]).permutation(len(problem_ids))
        drawn += [problem_ids[i] for i in order[offset : offset + num_problems - len(drawn)]]
    return tuple(drawn)
