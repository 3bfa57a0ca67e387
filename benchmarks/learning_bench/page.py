"""The section "Learning" of docs/results.md. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.learning_bench import section
from benchmarks.learning_bench.curves import LAST
from benchmarks.learning_bench.figures import (
    LEVELS,
    PLAIN_SAMPLING,
    SAMPLING_LEVEL,
    SAMPLING_LEVELS,
    real_of,
    reported,
    sweep_table,
)
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.tasks import MIXED_COUNTS, MIXED_MISTAKES, MOST_EXTRA
from benchmarks.learning_bench.trials import (
    ALL_THEN_HARD,
    BY_NAME,
    LENGTH_WARM_UP,
    METHODS,
    PROBLEMS,
    SAMPLES,
    STEPS,
    Group,
)

PICTURES = {group: f"learning-{group}.png" for group in Group}
NAMES = {
    "mirror_descent": "eq. (3), optimizer reset",
    "mirror_descent_kept": "eq. (3), moments kept",
    "reinforce": "REINFORCE, mean baseline",
    "grpo": "GRPO",
    "length_off": "without length reward",
    "length_on": "with length reward",
    "uniform": "uniform sampling",
    "prioritized": "prioritised sampling",
    "curriculum": "all, then hard ones alone",
}
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How the figures came about."""

    command: str
    date: str
    machine: str
    versions: str


def render(outcomes: Sequence[Outcome], figures: Figures, circumstances: Circumstances) -> str:
    """Return the section, in Markdown."""
    introduction = section.INTRODUCTION.format(
        command=circumstances.command,
        date=circumstances.date,
        machine=circumstances.machine,
        versions=circumstances.versions,
        problems=PROBLEMS[Group.OBJECTIVES],
        few=PROBLEMS[Group.LENGTH],
        samples=SAMPLES,
        steps=STEPS,
        last=LAST,
        sweeps=_sweeps(outcomes),
    )
    parts = [_objectives(outcomes, figures), _length(outcomes, figures), _sampling(outcomes, figures)]
    return "\n".join([introduction, *(part for part in parts if part)])


def _sweeps(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for name, row in sweep_table(outcomes).items():
        method, best = BY_NAME[name], max(row.values())
        first = {(rate, None): f"rate {rate:g}" for rate in method.rates}
        told = {setting: _number(value, 3, is_best=value == best) for setting, value in row.items()}
        then = ", ".join(f"{_setting(name, *setting)}: {told[setting]}" for setting in row if setting not in first)
        rows.append([NAMES[name], *(told.get(setting, "-") for setting in first), then or "-"])
    rates = METHODS[0].rates
    return _table(["mean accuracy in the sweep", *(f"rate {rate:g}" for rate in rates), "then"], rows)


def _setting(name: str, rate: float, own: float | None) -> str:
    """Return what tells a setting of the second part of a sweep from the best of the first."""
    return f"rate {rate:.2g}" if own is None else f"{BY_NAME[name].knob} {own:g}"


def _settings(figures: Figures, name: str) -> str:
    """Return the setting that a method is reported at."""
    rate, own = figures[f"rate_{name}"], figures.get(f"own_{name}")
    return f"{rate:.2g}" if own is None else f"{rate:.2g}, {BY_NAME[name].knob} {own:g}"


def _objectives(outcomes: Sequence[Outcome], figures: Figures) -> str:
    names = _run(Group.OBJECTIVES, outcomes)
    if len(names) < 2:
        return ""
    head = ["objective", "setting", "final reward", "final accuracy"]
    head += [f"iterations to {level:g}" for level in LEVELS]
    rows = [
        [
            NAMES[name],
            _settings(figures, name),
            _with_spread(figures, "final_reward", name),
            _with_spread(figures, "final_accuracy", name),
            *(_number(figures.get(f"iterations_to_{level:g}_{name}"), 1) for level in LEVELS),
        ]
        for name in names
    ]
    ranked = sorted(names, key=lambda name: -figures[f"final_accuracy_{name}"])
    runs = reported(outcomes, names[0])
    return section.OBJECTIVES.format(
        seeds=len(runs),
        iterations=len(runs[0].rewards),
        picture=PICTURES[Group.OBJECTIVES],
        table=_table(head, rows),
        best=NAMES[ranked[0]],
        margin=figures[f"final_accuracy_{ranked[0]}"] - figures[f"final_accuracy_{ranked[1]}"],
        apart=max(figures[f"final_accuracy_spread_{name}"] for name in names),
        reset=section.RESET.format(gain=figures["reset_removal_gain"]) if "reset_removal_gain" in figures else "",
        real=_real(outcomes, figures, names),
    )


def _real(outcomes: Sequence[Outcome], figures: Figures, names: Sequence[str]) -> str:
    rows = [
        [
            NAMES[name],
            str(len(real.rewards)),
            _number(figures[f"real_distance_{name}"], 3),
            _number(figures[f"seed_distance_{name}"], 3),
            f"{real.max_abs_logprob_difference:.1e}",
            _number(real.seconds, 0),
        ]
        for name in names
        if (real := real_of(outcomes, name)) is not None and f"real_distance_{name}" in figures
    ]
    head = ["real job", "iterations", "distance to the tiny engine", "of a seed to the others", "log-probabilities"]
    return section.REAL.format(table=_table([*head, "seconds"], rows)) if rows else section.NO_REAL


def _length(outcomes: Sequence[Outcome], figures: Figures) -> str:
    names = _run(Group.LENGTH, outcomes)
    if len(names) < 2:
        return ""
    rows = [
        [
            f"{BY_NAME[name].length_weight:g}",
            f"{figures[f'rate_{name}']:g}",
            _number(fmean(run.response_tokens[0] for run in reported(outcomes, name)), 1),
            _number(figures[f"final_length_{name}"], 1),
            _with_spread(figures, "final_accuracy", name),
            _with_spread(figures, "final_reward", name),
        ]
        for name in names
    ]
    head = ["weight", "rate", "length at first", "final length", "final accuracy", "final reward"]
    difference, apart = figures["accuracy_difference_length"], figures["accuracy_spread"]
    runs = reported(outcomes, names[0])
    return section.LENGTH.format(
        extra=MOST_EXTRA,
        seeds=len(runs),
        iterations=len(runs[0].rewards),
        first=LENGTH_WARM_UP + 1,
        picture=PICTURES[Group.LENGTH],
        table=_table(head, rows),
        share=figures["length_reduction_share"],
        from_start=figures["length_reduction_share_from_start"],
        difference=difference,
        held="within" if difference >= -apart else "beyond",
        apart=apart,
    )


def _sampling(outcomes: Sequence[Outcome], figures: Figures) -> str:
    names = _run(Group.SAMPLING, outcomes)
    if len(names) < 2:
        return ""
    rows = [
        [
            NAMES[name],
            f"{figures[f'rate_{name}']:g}",
            *(_number(figures.get(f"iterations_to_{accuracy:g}_{name}"), 1) for accuracy in SAMPLING_LEVELS),
            _with_spread(figures, "final_accuracy", name),
            f"{figures[f'hard_share_{name}']:.0%}",
        ]
        for name in names
    ]
    head = ["strategy", "rate", *(f"iterations to {accuracy:g}" for accuracy in SAMPLING_LEVELS)]
    head += ["final accuracy", "hard ones drawn"]
    verdict = " ".join(_verdict(figures, name) for name in names if name != PLAIN_SAMPLING)
    runs = reported(outcomes, names[0])
    iterations, (easy, hard) = len(runs[0].rewards), MIXED_COUNTS
    return section.SAMPLING.format(
        easy=easy,
        hard=hard,
        num_easy=MIXED_COUNTS[easy],
        num_hard=MIXED_COUNTS[hard],
        few=MIXED_MISTAKES[easy],
        many=MIXED_MISTAKES[hard],
        problems=PROBLEMS[Group.SAMPLING],
        times=iterations * PROBLEMS[Group.SAMPLING] / sum(MIXED_COUNTS.values()),
        alone=ALL_THEN_HARD.ramp_iterations,
        seeds=len(runs),
        iterations=iterations,
        picture=PICTURES[Group.SAMPLING],
        table=_table(head, rows),
        verdict=verdict,
    )


def _verdict(figures: Figures, name: str) -> str:
    level, speedup = f"{SAMPLING_LEVEL:g}", figures.get(f"{name}_speedup")
    if speedup is None:
        return f"Not every seed of {NAMES[name]} and uniform sampling reaches {level}."
    text = f"{NAMES[name]} reaches {level} in {1 / speedup:.2f} times the iterations of uniform sampling."
    return text[0].upper() + text[1:]


def _run(group: Group, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the methods of a group that have reported runs."""
    return [method.name for method in METHODS if method.group is group and reported(outcomes, method.name)]


def _with_spread(figures: Figures, what: str, name: str) -> str:
    return f"{figures[f'{what}_{name}']:.3f} ± {figures[f'{what}_spread_{name}'] / 2:.3f}"


def _number(value: float | None, digits: int, *, is_best: bool = False) -> str:
    text = "-" if value is None else f"{value:.{digits}f}"
    return f"**{text}**" if is_best else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
