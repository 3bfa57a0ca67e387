"""What the benchmark of learning runs next, and what it makes of what it has seen."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.learning_bench.curves import iterations_to
from benchmarks.learning_bench.figures import figures_of
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.page import PICTURES, Circumstances, render
from benchmarks.learning_bench.plan import QUICK, best_of, missing_trials, planned
from benchmarks.learning_bench.plots import draw
from benchmarks.learning_bench.real import manifest_of
from benchmarks.learning_bench.tasks import Task
from benchmarks.learning_bench.trials import METHODS, Group, Trial, recipe_of
from benchmarks.page import with_section

from tandem_api.job import RLJob

HOW = Circumstances("python x.py", "2026-11-23", "2 CPUs", "torch 2")
MOST_BYTES = 60_000
"""Of a picture."""


def outcome(
    method: str,
    seed: int = 1,
    accuracies: Sequence[float] = (0.2, 0.6, 0.9),
    *,
    rate: float = 3e-4,
    own: float | None = None,
    tokens: Sequence[float] = (8.0, 8.0),
    is_real: bool = False,
) -> Outcome:
    return Outcome(
        method=method,
        rate=rate,
        seed=seed,
        own=own,
        is_real=is_real,
        rewards=tuple(accuracies[:-1]),
        response_tokens=tuple(tokens),
        accuracies=tuple(accuracies),
        hard_shares=(0.25, 0.5),
        max_abs_logprob_difference=1e-6,
        seconds=3.0,
    )


def everything() -> list[Outcome]:
    """Two seeds, a sweep and a real job of every method."""
    runs = [outcome(method.name, seed) for method in METHODS for seed in (0, 1, 2)]
    return runs + [outcome(method.name, is_real=True) for method in METHODS]


def test_iterations_to_an_accuracy_count_from_the_initial_policy() -> None:
    assert iterations_to(0.5, (0.6, 0.7)) == 0
    assert iterations_to(0.5, (0.2, 0.4, 0.5)) == 2
    assert iterations_to(0.5, (0.2, 0.4)) is None


def test_a_sweep_is_won_by_accuracy_over_all_its_iterations() -> None:
    slow = outcome("grpo", accuracies=(0.2, 0.2, 0.9), rate=1e-4)
    fast = outcome("grpo", accuracies=(0.2, 0.8, 0.8), rate=3e-4)

    assert best_of([slow, fast]) is fast


def run_all(done: dict[str, Outcome], trials: Sequence[Trial], best: float) -> None:
    """Trials at that rate are the best."""
    for trial in trials:
        accuracies = (0.2, 0.9 if trial.rate == best and trial.own is None else 0.5)
        done[trial.key] = outcome(trial.method, trial.seed, accuracies, rate=trial.rate, own=trial.own)


def test_every_objective_has_the_same_budget_rates_first_then_a_number_of_its_own_then_what_is_reported() -> None:
    done: dict[str, Outcome] = {}
    parts = []
    for _ in range(3):
        parts.append(missing_trials(done, QUICK, [Group.OBJECTIVES]))
        run_all(done, parts[-1], 5.2e-4)

    rates, then, last = parts
    names = [method.name for method in METHODS if method.group is Group.OBJECTIVES]
    assert [trial.method for trial in rates] == [name for name in names for _ in range(3)]
    assert [trial.method for trial in then] == [name for name in names for _ in range(2)]
    assert {trial.rate for trial in then if trial.own is not None} == {5.2e-4}
    assert [trial.rate for trial in then if trial.method == "reinforce"] == pytest.approx([4.004e-4, 6.76e-4])
    assert {trial.rate for trial in last} == {5.2e-4}
    assert [(trial.method, trial.seed) for trial in last] == [(name, seed) for name in names for seed in QUICK.seeds]


def test_a_number_that_wins_the_sweep_is_reported_and_named_on_the_page() -> None:
    done: dict[str, Outcome] = {}
    run_all(done, missing_trials(done, QUICK, [Group.OBJECTIVES]), 5.2e-4)
    for trial in missing_trials(done, QUICK, [Group.OBJECTIVES]):
        done[trial.key] = outcome(trial.method, 0, (0.2, 1.0 if trial.own == 0.4 else 0.0), rate=5.2e-4, own=trial.own)

    reported = [trial for trial in missing_trials(done, QUICK, [Group.OBJECTIVES]) if trial.method == "grpo"]
    runs = [outcome(trial.method, trial.seed, rate=trial.rate, own=trial.own) for trial in reported]
    text = render([*runs, *everything()[:3]], figures_of([*runs, *everything()[:3]]), HOW)

    assert {trial.own for trial in reported} == {0.4}
    assert recipe_of(reported[0]).objective.clip_low == 0.4
    assert "| GRPO | 0.00052, clip 0.4 |" in text


def test_trials_of_another_scale_count_for_nothing() -> None:
    other = Trial("grpo", 1e-4, 0, 999)

    assert planned({other.key: outcome("grpo", 0)}, QUICK) == {}


def test_the_length_rewards_figures_compare_the_end_with_and_without_it() -> None:
    runs = [
        outcome("length_off", 1, accuracies=(0.2, 0.7, 0.7), tokens=(8.0, 10.0)),
        outcome("length_off", 2, accuracies=(0.2, 0.8, 0.8), tokens=(8.0, 10.0)),
        outcome("length_on", 1, accuracies=(0.2, 0.8, 0.8), tokens=(8.0, 4.0)),
    ]

    figures = figures_of(runs)

    assert figures["length_reduction_share"] == pytest.approx(1 - 6 / 9, abs=1e-4)
    assert figures["accuracy_difference_length"] == pytest.approx(0.6 - (1.6 / 3 + 0.6) / 2, abs=1e-4)
    assert figures["accuracy_spread"] == pytest.approx(0.6 - 1.6 / 3, abs=1e-4)


def test_the_speedup_of_prioritised_sampling_is_in_iterations_to_one_accuracy() -> None:
    runs = [outcome("uniform", accuracies=(0.2, 0.3, 0.9)), outcome("prioritized", accuracies=(0.2, 0.9, 0.9))]

    assert figures_of(runs)["prioritized_speedup"] == 2.0
    assert figures_of(runs)["hard_share_uniform"] == 0.375


def test_an_accuracy_that_a_seed_never_reaches_has_no_figure() -> None:
    figures = figures_of([outcome("grpo", 1), outcome("grpo", 2, accuracies=(0.2, 0.3, 0.3))])

    assert "iterations_to_0.5_grpo" not in figures
    assert "final_reward_grpo" in figures


def test_the_page_tells_every_comparison() -> None:
    runs = everything()

    text = render(runs, figures_of(runs), HOW)

    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### Objectives",
        "### Length reward",
        "### Sampling",
    ]
    assert text.count("![") == len(PICTURES)


@pytest.mark.parametrize("group", Group)
def test_a_picture_is_small(group: Group, tmp_path: Path) -> None:
    draw(group, everything(), tmp_path / "picture.png")

    assert 5_000 < (tmp_path / "picture.png").stat().st_size < MOST_BYTES


def test_a_section_is_replaced_and_the_rest_of_the_page_stays() -> None:
    page = with_section(with_section("# Results\n", "one", "first"), "two", "second")

    assert with_section(page, "one", "other") == page.replace("first", "other")


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_a_trial_is_an_rljob_too(method: str, tmp_path: Path) -> None:
    trial = Trial(method, 3e-4, 1, 24)

    job = RLJob.model_validate(manifest_of(trial, Task("digits", tmp_path, ())))

    assert job.spec.recipe.iterations == 24
    assert job.spec.trainer.optimizer.learning_rate == 3e-4
