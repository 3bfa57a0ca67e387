"""Which trials are to be run, given what has been. Pure.

Each method has a sweep first, at one seed, that of no trial that is reported: three learning rates, then two other
values of its own number at the best of them. The setting whose policy was right most often, averaged over the
iterations of its sweep, is what the reported trials have.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.trials import METHODS, SWEEP_SEED, Group, Knob, Method, Trial


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is run."""

    sweep_iterations: Mapping[Group, int]
    iterations: Mapping[Group, int]
    seeds: Sequence[int]


QUICK = Scale(
    {Group.OBJECTIVES: 12, Group.LENGTH: 10, Group.SAMPLING: 10},
    {Group.OBJECTIVES: 24, Group.LENGTH: 24, Group.SAMPLING: 24},
    (1, 2, 3),
)
FULL = Scale(
    {Group.OBJECTIVES: 24, Group.LENGTH: 24, Group.SAMPLING: 24},
    {Group.OBJECTIVES: 60, Group.LENGTH: 60, Group.SAMPLING: 60},
    (1, 2, 3, 4, 5),
)


def missing_trials(done: Mapping[str, Outcome], scale: Scale, groups: Sequence[Group]) -> list[Trial]:
    """Return what can be run now: of a method whose sweep is not complete only what is missing of that."""
    return [
        trial
        for method in METHODS
        if method.group in groups
        for trial in (missing_of(done, sweep_of(method, done, scale)) or reported_of(method, done, scale))
        if trial.key not in done
    ]


def planned(done: Mapping[str, Outcome], scale: Scale) -> dict[str, Outcome]:
    """Return those of the trials that have been run, as real jobs too, which belong to this scale."""
    keys: set[str] = set()
    for method in METHODS:
        sweep = sweep_of(method, done, scale)
        keys |= {trial.key for trial in sweep}
        if not missing_of(done, sweep):
            keys |= {name for trial in reported_of(method, done, scale) for name in (trial.key, trial.real_key)}
    return {name: one for name, one in done.items() if name in keys}


def whole(outcomes: Sequence[Outcome], scale: Scale) -> list[Outcome]:
    """Return the outcomes without reported ones of methods of which some are missing: their means would mislead."""
    counts = Counter(one.method for one in outcomes if one.seed != SWEEP_SEED and not one.is_real)
    return [one for one in outcomes if one.seed == SWEEP_SEED or counts[one.method] == len(scale.seeds)]


def sweep_of(method: Method, done: Mapping[str, Outcome], scale: Scale) -> list[Trial]:
    """Return a method's sweep, as far as it is known: its second part follows from the first. None of one rate."""
    if len(method.rates) == 1:
        return []
    iterations = scale.sweep_iterations[method.group]
    rates = [Trial(method.name, rate, SWEEP_SEED, iterations) for rate in method.rates]
    if missing_of(done, rates):
        return rates
    best = best_of([done[trial.key] for trial in rates]).rate
    if method.knob is Knob.RATE:
        return rates + [Trial(method.name, best * factor, SWEEP_SEED, iterations) for factor in method.others]
    return rates + [Trial(method.name, best, SWEEP_SEED, iterations, own) for own in method.others]


def missing_of(done: Mapping[str, Outcome], trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have not been run."""
    return [trial for trial in trials if trial.key not in done]


def reported_of(method: Method, done: Mapping[str, Outcome], scale: Scale) -> list[Trial]:
    """Return the trials that are reported, at the best setting of the sweep, which is complete."""
    sweep = [done[trial.key] for trial in sweep_of(method, done, scale)]
    best = best_of(sweep) if sweep else None
    rate, own = (best.rate, best.own) if best else (method.rates[0], None)
    return [Trial(method.name, rate, seed, scale.iterations[method.group], own) for seed in scale.seeds]


def best_of(sweep: Sequence[Outcome]) -> Outcome:
    """Return the run of the highest mean accuracy over its iterations; of equal ones that of the smallest rate."""
    return max(sorted(sweep, key=lambda one: one.rate), key=lambda one: fmean(one.accuracies))
