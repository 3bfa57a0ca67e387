"""The problems of an iteration: shares of the problem sets, then the strategies within each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tandem_api.job.sampling import DifficultySource, SamplingSpec, SamplingStrategy
from tandem_master.sampling.curriculum import curriculum_weights, difficulties_by_pass_rate, open_ranks, ranked
from tandem_master.sampling.prioritized import failure_rates
from tandem_master.sampling.state import Draw, Tally
from tandem_master.sampling.uniform import draw_uniform
from tandem_master.sampling.weighted import Integers, draw_weighted


class Stream(IntEnum):
    """Independent streams of random numbers from one seed."""

    SHARES = 1
    UNIFORM = 2
    STRATEGIES = 3
    RANKS = 4
    PRIORITIZED = 5
    CURRICULUM = 6


@dataclass(frozen=True, slots=True)
class DrawnSet:
    """One problem set, as far as drawing from it goes."""

    name: str
    weight: float
    problem_ids: tuple[str, ...]
    difficulties: tuple[float, ...] | None = None
    """Labels of the problems, None where not each has one."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The numbers of the recipe that a draw depends on."""

    sampling: SamplingSpec
    num_problems: int
    seed: int


@dataclass(frozen=True, slots=True)
class Moment:
    """When a draw happens, and what is known by then."""

    iteration: int
    tallies: Mapping[str, Tally]
    refill: int = 0
    """0: the iteration's first draw; from 1: the number of a problem that is drawn in place of another."""

    @property
    def stream(self) -> list[int]:
        """Return what tells this draw's random numbers from those of others; numpy takes a 0 at the end for nothing."""
        return [self.iteration, self.refill] if self.refill else [self.iteration]


def draw_problems(
    sets: Sequence[DrawnSet],
    drawing: Drawing,
    iteration: int,
    positions: Mapping[str, int],
    tallies: Mapping[str, Tally],
) -> Draw:
    """Return the problems of `iteration`; the same arguments give the same problems.

    `positions`: places of the sets in their uniform rows. Each slot goes to a set with the probability of its weight.
    """
    return _draw(sets, drawing, Moment(iteration, tallies), Draw((), positions), drawing.num_problems)


def draw_again(
    sets: Sequence[DrawnSet], drawing: Drawing, iteration: int, drawn: Draw, tallies: Mapping[str, Tally]
) -> Draw:
    """Return `drawn` with one more problem, in place of a group without signal; the same arguments give the same."""
    refill = len(drawn.problem_ids) - drawing.num_problems + 1
    return _draw(sets, drawing, Moment(iteration, tallies, refill), drawn, 1)


def _draw(sets: Sequence[DrawnSet], drawing: Drawing, moment: Moment, before: Draw, num_problems: int) -> Draw:
    weights = np.array([item.weight for item in sets])
    rng = np.random.default_rng([drawing.seed, Stream.SHARES, *moment.stream])
    shares = rng.multinomial(num_problems, weights / weights.sum()).tolist()
    counts = Counter(before.problem_ids)
    positions = {item.name: before.positions.get(item.name, 0) for item in sets}
    drawn: list[str] = []
    for number, (item, share) in enumerate(zip(sets, shares, strict=True)):
        for strategy, part in _parts(drawing, number, moment, share):
            if strategy is SamplingStrategy.UNIFORM:
                # In a mixture, what another strategy has drawn is not drawn in place of a group too.
                known = counts if moment.refill and drawing.sampling.strategy is SamplingStrategy.MIXTURE else {}
                row = [drawing.seed, Stream.UNIFORM, number]
                problems, positions[item.name] = _draw_row(item.problem_ids, positions[item.name], part, row, known)
            else:
                problems = _draw_by_weight(strategy, item, number, drawing, moment, counts, part)
            counts.update(problems)
            drawn += problems
    return Draw((*before.problem_ids, *drawn), positions)


def _parts(drawing: Drawing, number: int, moment: Moment, share: int) -> list[tuple[SamplingStrategy, int]]:
    """Return how many problems of a set each strategy draws. Uniform is the first: its row passes over no problem."""
    sampling = drawing.sampling
    if sampling.strategy is not SamplingStrategy.MIXTURE:
        return [(sampling.strategy, share)] if share else []
    strategies = (SamplingStrategy.UNIFORM, SamplingStrategy.PRIORITIZED, SamplingStrategy.CURRICULUM)
    weights = np.array([sampling.shares.uniform, sampling.shares.prioritized, sampling.shares.curriculum])
    rng = np.random.default_rng([drawing.seed, Stream.STRATEGIES, number, *moment.stream])
    parts = rng.multinomial(share, weights / weights.sum()).tolist()
    return [(strategy, part) for strategy, part in zip(strategies, parts, strict=True) if part]


def _draw_row(
    problem_ids: Sequence[str], position: int, num_problems: int, seed: Sequence[int], known: Mapping[str, int]
) -> tuple[tuple[str, ...], int]:
    """Return the next problems of the row and the place after them; passed over is what is known more often than
    others.
    """
    if not known:
        return draw_uniform(problem_ids, position, num_problems, seed), position + num_problems
    fewest = min(known.get(problem, 0) for problem in problem_ids)
    drawn: list[str] = []
    while len(drawn) < num_problems:
        (problem,) = draw_uniform(problem_ids, position, 1, seed)
        position += 1
        drawn += [problem] if known.get(problem, 0) == fewest else []
    return tuple(drawn), position


def _draw_by_weight(
    strategy: SamplingStrategy,
    item: DrawnSet,
    number: int,
    drawing: Drawing,
    moment: Moment,
    counts: Mapping[str, int],
    num_problems: int,
) -> tuple[str, ...]:
    """Return problems of the set with this number; `counts`: how often each is drawn already, 0 where absent."""
    taken = np.array([counts.get(problem, 0) for problem in item.problem_ids])
    if strategy is SamplingStrategy.PRIORITIZED:
        stream, weights = Stream.PRIORITIZED, failure_rates(item.problem_ids, moment.tallies)
    else:
        spec, order = drawing.sampling.curriculum, _order(item, number, drawing, moment)
        ranks = open_ranks(spec, len(order), num_problems, moment.iteration)
        stream, weights = Stream.CURRICULUM, curriculum_weights(order, ranks)
    rng = np.random.default_rng([drawing.seed, stream, number, *moment.stream])
    return tuple(item.problem_ids[index] for index in draw_weighted(weights, num_problems, taken, rng))


def _order(item: DrawnSet, number: int, drawing: Drawing, moment: Moment) -> Integers:
    """Return the problems of a set from easy to hard, int64 [num_problems]."""
    is_labelled = drawing.sampling.curriculum.difficulty is DifficultySource.LABEL and item.difficulties is not None
    difficulties = (
        np.array(item.difficulties) if is_labelled else difficulties_by_pass_rate(item.problem_ids, moment.tallies)
    )
    return ranked(difficulties, [drawing.seed, Stream.RANKS, number])
