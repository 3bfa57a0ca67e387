"""From scored samples to pass@k, means and counts."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import pytest

from tandem_master.evaluation.estimate import Sample, estimate, pass_at_k, steps_of_k


def sample(problem: str, number: int, reward: float | None, *, tokens: int = 10, cut: bool = False) -> Sample:
    return Sample(problem, number, tokens, "length" if cut else "stop", reward, correct=reward == 1.0)


def by_counting(marks: Sequence[bool], k: int) -> float:
    """The share of all sets of k samples in which one is correct."""
    return fmean(float(any(drawn)) for drawn in combinations(marks, k))


@pytest.mark.parametrize("num_correct", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_share_of_sets_of_k_samples_that_hold_a_correct_one(num_correct: int, k: int) -> None:
    marks = [True] * num_correct + [False] * (6 - num_correct)

    assert pass_at_k(6, num_correct, k) == pytest.approx(by_counting(marks, k), abs=1e-12)


def test_pass_at_k_of_a_thousand_samples_is_a_number() -> None:
    assert 0.0 < pass_at_k(1024, 1, 512) < 1.0


@pytest.mark.parametrize(("samples", "steps"), [(1, (1,)), (4, (1, 2, 4)), (6, (1, 3, 6)), (8, (1, 2, 4, 8))])
def test_k_is_halved_down_to_one(samples: int, steps: tuple[int, ...]) -> None:
    assert steps_of_k(samples) == steps


def test_every_problem_counts_the_same() -> None:
    found = estimate([sample("a", 0, 1.0), sample("a", 1, 1.0), sample("b", 0, 0.0), sample("b", 1, 1.0)], 2)

    assert found.pass_at == {1: 0.75, 2: 1.0}
    assert (found.num_problems, found.num_samples, found.mean_reward) == (2, 4, 0.75)


def test_what_was_not_scored_is_counted_and_takes_part_in_nothing_else() -> None:
    samples = [sample("a", 0, 1.0, tokens=4), sample("a", 1, None, tokens=90, cut=True), sample("b", 0, None)]

    found = estimate(samples, 2)

    assert (found.num_problems, found.num_samples, found.num_unscored) == (1, 1, 2)
    assert found.pass_at == {1: 1.0}
    assert (found.mean_reward, found.mean_tokens, found.cut_share, found.num_tokens) == (1.0, 4.0, 0.0, 104)


def test_the_share_that_was_cut_is_of_scored_samples() -> None:
    found = estimate([sample("a", 0, 0.0, cut=True), sample("b", 0, 1.0)], 1)

    assert found.cut_share == 0.5


def test_nothing_is_worth_nothing_and_not_an_error() -> None:
    found = estimate([], 4)

    assert (found.pass_at, found.mean_reward, found.mean_tokens, found.cut_share) == ({}, 0.0, 0.0, 0.0)
