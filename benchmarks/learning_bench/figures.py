"""Figures from outcomes. Pure."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.learning_bench.curves import distance, final, iterations_to, mean_curve, spread
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.trials import METHODS, SWEEP_SEED, Group

LEVELS = (0.5, 0.8)
"""Accuracies whose iterations are counted."""
SAMPLING_LEVEL = 0.7
"""The accuracy that the strategies of sampling are compared at."""
SAMPLING_LEVELS = (0.65, SAMPLING_LEVEL, 0.75)
"""It and its neighbours: which level one chooses must not decide who wins."""
Setting = tuple[float, float | None]
"""A learning rate, and what the method's own number is where it is not the recipe's default."""
RESET_AND_NOT = ("mirror_descent", "mirror_descent_kept")
OUR_LENGTH = ("length_on", "length_off")
PLAIN_SAMPLING, OUR_SAMPLING = "uniform", ("prioritized", "curriculum")


def reported(outcomes: Sequence[Outcome], method: str) -> list[Outcome]:
    """Return the runs of a method that are no part of a sweep and no real job, by seed."""
    chosen = [one for one in outcomes if one.method == method and not one.is_real and one.seed != SWEEP_SEED]
    return sorted(chosen, key=lambda one: one.seed)


def real_of(outcomes: Sequence[Outcome], method: str) -> Outcome | None:
    """Return the real job of a method, None where none was run."""
    return next((one for one in outcomes if one.is_real and one.method == method), None)


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return all figures for which there are runs."""
    figures: dict[str, float] = {}
    for method in METHODS:
        figures |= method_figures(outcomes, method.name, LEVELS if method.group is not Group.SAMPLING else ())
    with_reset, without = (figures.get(f"final_accuracy_{name}") for name in RESET_AND_NOT)
    if with_reset and without:
        figures["reset_removal_gain"] = without - with_reset
    figures |= length_figures(outcomes)
    figures |= sampling_figures(outcomes)
    for method in METHODS:
        figures |= real_figures(outcomes, method.name)
    return {key: value if key.startswith("rate_") else round(value, 4) for key, value in figures.items()}


def method_figures(outcomes: Sequence[Outcome], name: str, levels: Sequence[float]) -> dict[str, float]:
    """Return what the runs of a method have shown: means over seeds, and spreads."""
    runs = reported(outcomes, name)
    if not runs:
        return {}
    rewards, accuracies = [final(run.rewards) for run in runs], [final(run.accuracies) for run in runs]
    figures = {
        f"final_reward_{name}": fmean(rewards),
        f"final_reward_spread_{name}": spread(rewards),
        f"final_accuracy_{name}": fmean(accuracies),
        f"final_accuracy_spread_{name}": spread(accuracies),
        f"final_length_{name}": fmean(final(run.response_tokens) for run in runs),
        f"seconds_{name}": fmean(run.seconds for run in runs),
        f"rate_{name}": runs[0].rate,
    }
    if runs[0].own is not None:
        figures[f"own_{name}"] = runs[0].own
    for level in levels:
        mean = mean_iterations(runs, level)
        if mean is not None:
            figures[f"iterations_to_{level:g}_{name}"] = mean
    return figures


def mean_iterations(runs: Sequence[Outcome], level: float) -> float | None:
    """Return the mean over seeds of the iterations to an accuracy; None where a seed does not reach it."""
    counts = [iterations_to(level, run.accuracies) for run in runs]
    known = [count for count in counts if count is not None]
    return fmean(known) if runs and len(known) == len(counts) else None


def length_figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return what the length reward does."""
    on, off = (reported(outcomes, name) for name in OUR_LENGTH)
    if not on or not off:
        return {}
    length_on, length_off = (fmean(final(run.response_tokens) for run in runs) for runs in (on, off))
    accuracies_on, accuracies_off = ([final(run.accuracies) for run in runs] for runs in (on, off))
    before = fmean(run.response_tokens[0] for run in on)
    return {
        "length_reduction_share": 1 - length_on / length_off,
        "length_reduction_share_from_start": 1 - length_on / before,
        "accuracy_difference_length": fmean(accuracies_on) - fmean(accuracies_off),
        "accuracy_spread": max(spread(accuracies_on), spread(accuracies_off)),
    }


def sampling_figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return how many iterations each strategy takes to an accuracy, and how much of what it draws is hard."""
    figures = {}
    for name in (PLAIN_SAMPLING, *OUR_SAMPLING):
        runs = reported(outcomes, name)
        if runs:
            figures[f"hard_share_{name}"] = fmean(share for run in runs for share in run.hard_shares)
        for level in SAMPLING_LEVELS:
            mean = mean_iterations(runs, level)
            if mean is not None:
                figures[f"iterations_to_{level:g}_{name}"] = mean
    plain = figures.get(f"iterations_to_{SAMPLING_LEVEL:g}_{PLAIN_SAMPLING}")
    for name in OUR_SAMPLING:
        ours = figures.get(f"iterations_to_{SAMPLING_LEVEL:g}_{name}")
        if ours and plain:
            figures[f"{name}_speedup"] = plain / ours
    return figures


def real_figures(outcomes: Sequence[Outcome], name: str) -> dict[str, float]:
    """Return how far a real job's rewards are from the tiny engine's, and those of its seeds from each other."""
    real, runs = real_of(outcomes, name), reported(outcomes, name)
    if real is None or len(runs) < 2:
        return {}
    rewards = [run.rewards for run in runs]
    apart = [distance(one, mean_curve([other for other in rewards if other is not one])) for one in rewards]
    return {
        f"real_final_reward_{name}": final(real.rewards),
        f"real_seconds_{name}": real.seconds,
        f"real_distance_{name}": distance(real.rewards, mean_curve(rewards)),
        f"seed_distance_{name}": max(apart),
    }


def sweep_table(outcomes: Sequence[Outcome]) -> Mapping[str, Mapping[Setting, float]]:
    """Return the mean accuracy over the iterations of each sweep's runs: by method, then by setting."""
    table: dict[str, dict[Setting, float]] = {}
    for one in sorted(outcomes, key=lambda one: (one.rate, one.own or 0.0)):
        if one.seed == SWEEP_SEED and not one.is_real:
            table.setdefault(one.method, {})[one.rate, one.own] = fmean(one.accuracies)
    return table
