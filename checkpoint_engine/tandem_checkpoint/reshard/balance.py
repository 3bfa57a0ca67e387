"""Equal shares handed to those that have least so far.

Legend: R rows that are filled at once, K candidates of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.placement import Ints

NUM_SWEEPS = 3
"""How often every choice is made, each time in the light of all others, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Units of equal size, each of which one of its row's candidates has to take."""

    candidates: Ints
    """[R, K] Ranks; -1 where a row has fewer than others."""
    num_units: int
    """Of each row."""
    unit_bytes: int


def balance(choices: Sequence[Choice], num_ranks: int) -> list[Ints]:
    """Return how many units each candidate takes, [R, K] for each choice: all ranks' bytes are as even as can be.

    Those with fewest candidates choose first, and the larger ones of those. Every choice is then made again while all
    others stand, until none changes: that lowers the sum of squares each time, and ends near the most even way.
    """
    loads = np.zeros(num_ranks + 1)  # the last one stands for "nobody"
    loads[-1] = np.inf
    taken: list[Ints] = [np.zeros(choice.candidates.shape, np.int64) for choice in choices]
    open_ones = []
    for at, choice in enumerate(choices):
        if choice.candidates.shape[1] == 1:
            taken[at][:] = choice.num_units
            np.add.at(loads, choice.candidates, taken[at] * float(choice.unit_bytes))
        else:
            open_ones.append(at)
    open_ones.sort(key=lambda at: (choices[at].candidates.shape[1], -choices[at].unit_bytes * choices[at].num_units))
    for _ in range(NUM_SWEEPS):
        changed = False
        for at in open_ones:
            choice, before = choices[at], taken[at]
            ranks, unit_bytes = choice.candidates, float(choice.unit_bytes)
            np.subtract.at(loads, ranks, before * unit_bytes)
            taken[at] = fill(loads[ranks], choice.num_units, choice.unit_bytes)
            np.add.at(loads, ranks, taken[at] * unit_bytes)
            changed = changed or not np.array_equal(before, taken[at])
        if not changed:
            break
    return taken


def fill(loads_RK: NDArray[np.float64], num_units: int, unit_bytes: int) -> Ints:
    """Return how many of `num_units` units each candidate gets when the lowest is always filled first, [R, K].

    As water fills a vessel: the level at which all is poured is known from the sorted loads; what whole units leave
    over goes to the lowest, one each. Candidates with infinite load get nothing.
    """
    rows, seats = np.arange(len(loads_RK))[:, None], np.arange(loads_RK.shape[1])
    order = loads_RK.argsort(axis=1, kind="stable")
    loads = loads_RK[rows, order]
    levels = (num_units * float(unit_bytes) + loads.cumsum(axis=1)) / (seats + 1)
    num_wet = np.maximum((loads < levels).sum(axis=1, keepdims=True), 1)
    units = np.maximum((levels[rows, num_wet - 1] - loads) / unit_bytes, 0.0).astype(np.int64)
    lowest = (loads + units * float(unit_bytes)).argsort(axis=1, kind="stable")
    units[rows, lowest] += seats < num_units - units.sum(axis=1, keepdims=True)
    result: Ints = np.empty_like(units)
    result[rows, order] = units
    return result
