"""The problems of an iteration: shares of the problem sets, then the strategy within each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tandem_api.job.recipe import SamplingStrategy
from tandem_master.sampling.prioritized import draw_prioritized
from tandem_master.sampling.state import Draw, Tally
from tandem_master.sampling.uniform import draw_uniform


class Stream(IntEnum):
    """Independent streams of random numbers from one seed."""

    SHARES = 1
    PROBLEMS = 2


@dataclass(frozen=True, slots=True)
class DrawnSet:
    """One problem set, as far as drawing from it goes."""

    name: str
    weight: float
    problem_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """The numbers of the recipe that a draw depends on."""

    strategy: SamplingStrategy
    num_problems: int
    seed: int


def draw_problems(
    sets: Sequence[DrawnSet],
    drawing: Drawing,
    iteration: int,
    positions: Mapping[str, int],
    tallies: Mapping[str, Tally],
) -> Draw:
    """Return the problems of `iteration`; the same arguments give the same problems.

    `positions`: problems drawn from each set before. Each slot goes to a set with the probability of its weight.
    """
    weights = np.array([item.weight for item in sets])
    rng = np.random.default_rng([drawing.seed, Stream.SHARES, iteration])
    shares = rng.multinomial(drawing.num_problems, weights / weights.sum()).tolist()
    drawn: list[str] = []
    after = dict(positions)
    for number, (item, share) in enumerate(zip(sets, shares, strict=True)):
        position = positions.get(item.name, 0)
        after[item.name] = position + share
        stream = [drawing.seed, Stream.PROBLEMS, number]
        match drawing.strategy:
            case SamplingStrategy.UNIFORM:
                drawn += draw_uniform(item.problem_ids, position, share, stream)
            case SamplingStrategy.PRIORITIZED:
                own_rng = np.random.default_rng([*stream, iteration])
                drawn += draw_prioritized(item.problem_ids, tallies, share, own_rng)
    return Draw(tuple(drawn), after)
