"""Which problems an iteration draws (report, section 2.3.4)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.recipe import SamplingStrategy
from tandem_master.sampling.mixture import Drawing, DrawnSet, draw_problems
from tandem_master.sampling.prioritized import draw_prioritized
from tandem_master.sampling.state import Draw, Tally
from tandem_master.sampling.uniform import draw_uniform

FIVE = ("a", "b", "c", "d", "e")
CHI_SQUARE_3_DEGREES_AT_1_PER_MILLE = 16.27


def drawn_one_at_a_time(tallies: dict[str, Tally], problem_ids: tuple[str, ...], times: int) -> Counter[str]:
    """How often each problem is drawn by `times` draws of one."""
    rng = np.random.default_rng(20)
    return Counter(draw_prioritized(problem_ids, tallies, 1, rng)[0] for _ in range(times))


def drawn_in_a_row(sets: list[DrawnSet], drawing: Drawing, iterations: int) -> list[Draw]:
    """The draws of the first iterations, each from where the one before ended."""
    draws = [draw_problems(sets, drawing, 1, {}, {})]
    for iteration in range(2, iterations + 1):
        draws.append(draw_problems(sets, drawing, iteration, draws[-1].positions, {}))
    return draws


@given(st.integers(1, 9), st.integers(0, 50))
def test_uniform_draws_every_problem_once_before_any_comes_again(size: int, seed: int) -> None:
    problem_ids = tuple(str(i) for i in range(size))

    drawn = draw_uniform(problem_ids, 0, 3 * size, [seed])

    assert Counter(drawn[:size]) == Counter(drawn[size : 2 * size]) == Counter(problem_ids)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_uniform_goes_on_where_it_was(position: int, first: int, second: int) -> None:
    at_once = draw_uniform(FIVE, position, first + second, [3])

    in_two = draw_uniform(FIVE, position, first, [3]) + draw_uniform(FIVE, position + first, second, [3])

    assert at_once == in_two


def test_uniform_passes_are_shuffled_differently() -> None:
    drawn = draw_uniform(tuple(map(str, range(50))), 0, 100, [1])

    assert drawn[:50] != drawn[50:]


def test_prioritized_draws_in_proportion_to_the_failure_rate() -> None:
    tallies = {"a": Tally(10, 9), "b": Tally(10, 6), "c": Tally(4, 2), "d": Tally(8, 8)}
    expected = np.array([0.1, 0.4, 0.5, 1.0]) / 2.0 * 8000

    counts = drawn_one_at_a_time(tallies, ("a", "b", "c", "untried"), 8000)

    observed = np.array([counts["a"], counts["b"], counts["c"], counts["untried"]])
    assert float(((observed - expected) ** 2 / expected).sum()) < CHI_SQUARE_3_DEGREES_AT_1_PER_MILLE


def test_prioritized_leaves_out_what_always_succeeds() -> None:
    counts = drawn_one_at_a_time({"a": Tally(8, 8), "b": Tally(8, 7)}, ("a", "b"), 200)

    assert counts == {"b": 200}


def test_prioritized_fills_up_with_solved_problems_where_the_others_do_not_suffice() -> None:
    tallies = {name: Tally(8, 8) for name in "abcd"}

    drawn = draw_prioritized(FIVE, tallies, 3, np.random.default_rng(1))

    assert len(set(drawn)) == 3
    assert "e" in drawn


@given(st.integers(0, 30), st.integers(0, 99))
def test_prioritized_repeats_no_problem_more_than_it_must(num_problems: int, seed: int) -> None:
    drawn = draw_prioritized(FIVE, {"a": Tally(3, 1)}, num_problems, np.random.default_rng(seed))

    counts = [Counter(drawn)[name] for name in FIVE]
    assert len(drawn) == num_problems
    assert max(counts) - min(counts) <= 1


def test_sets_are_drawn_from_by_weight() -> None:
    sets = [
        DrawnSet("small", 1.0, tuple(f"s{i}" for i in range(50))),
        DrawnSet("large", 3.0, tuple(f"l{i}" for i in range(50))),
    ]

    draw = draw_problems(sets, Drawing(SamplingStrategy.PRIORITIZED, 4000, 5), 1, {}, {})

    share = sum(name.startswith("l") for name in draw.problem_ids) / 4000
    assert share == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("strategy", list(SamplingStrategy))
def test_a_draw_depends_on_seed_iteration_and_state_alone(strategy: SamplingStrategy) -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(40))))]

    draws = [draw_problems(sets, Drawing(strategy, 10, seed), 4, {"digits": 7}, {}) for seed in (1, 1, 2)]

    assert draws[0] == draws[1]
    assert draws[0].problem_ids != draws[2].problem_ids


def test_uniform_iterations_together_make_whole_passes() -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(12))))]

    draws = drawn_in_a_row(sets, Drawing(SamplingStrategy.UNIFORM, 4, 9), iterations=3)

    assert sorted(name for draw in draws for name in draw.problem_ids) == sorted(map(str, range(12)))
    assert draws[-1].positions == {"digits": 12}
