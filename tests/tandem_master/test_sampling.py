"""Which problems an iteration draws (report, section 2.3.4)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.job.sampling import CurriculumSpec, DifficultySource, SamplingSpec, SamplingStrategy, StrategyShares
from tandem_api.trajectory import Trajectory
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.sampling.curriculum import difficulties_by_pass_rate, open_ranks, ranked
from tandem_master.sampling.mixture import Drawing, DrawnSet, draw_again, draw_problems
from tandem_master.sampling.prioritized import failure_rates
from tandem_master.sampling.state import Draw, Tally
from tandem_master.sampling.uniform import draw_uniform
from tandem_master.sampling.weighted import draw_weighted
from tests.tandem_master.texts import finished, segment

FIVE = ("a", "b", "c", "d", "e")
LABELLED = DrawnSet("labelled", 1.0, ("c", "a", "e", "b", "d"), (3.0, 1.0, 5.0, 2.0, 4.0))
CHI_SQUARE_AT_1_PER_MILLE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}
"""By degrees of freedom: exceeded by one seed in a thousand where the draws are right."""
NOBODY: Mapping[str, int] = {}
SOME = {"a": Tally(8, 8), "b": Tally(8, 5), "c": Tally(8, 1)}

UNIFORM = SamplingSpec(strategy=SamplingStrategy.UNIFORM)
PRIORITIZED = SamplingSpec()
CURRICULUM = SamplingSpec(strategy=SamplingStrategy.CURRICULUM)
BY_PASS_RATE = SamplingSpec(
    strategy=SamplingStrategy.CURRICULUM, curriculum=CurriculumSpec(difficulty=DifficultySource.PASS_RATE)
)
MIXTURE = SamplingSpec(strategy=SamplingStrategy.MIXTURE, shares=StrategyShares(uniform=1, prioritized=2, curriculum=1))
EVERY = (UNIFORM, PRIORITIZED, CURRICULUM, BY_PASS_RATE, MIXTURE)


def chi_square(counts: Mapping[str, int], expected: Mapping[str, float]) -> float:
    """Return the distance of counts from what is expected, by name; nothing else may have been counted."""
    assert set(counts) <= set(expected)
    return sum((counts.get(name, 0) - number) ** 2 / number for name, number in expected.items())


def drawn_one_at_a_time(
    item: DrawnSet, sampling: SamplingSpec, iteration: int, tallies: Mapping[str, Tally], times: int
) -> Counter[str]:
    """How often each problem is drawn by draws of one, each with another seed."""
    draws = (
        draw_problems([item], Drawing(sampling, 1, seed), iteration, NOBODY, tallies).problem_ids[0]
        for seed in range(times)
    )
    return Counter(draws)


def drawn_in_a_row(sets: Sequence[DrawnSet], drawing: Drawing, iterations: int) -> list[Draw]:
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


def test_uniform_draws_each_problem_as_often_as_any_other() -> None:
    counts = drawn_one_at_a_time(DrawnSet("five", 1.0, FIVE), UNIFORM, 1, {}, times=2000)

    assert chi_square(counts, dict.fromkeys(FIVE, 400.0)) < CHI_SQUARE_AT_1_PER_MILLE[4]


def test_prioritized_draws_in_proportion_to_the_failure_rate() -> None:
    tallies = {"a": Tally(10, 9), "b": Tally(10, 6), "c": Tally(4, 2), "d": Tally(8, 8)}
    expected = {"a": 0.1, "b": 0.4, "c": 0.5, "e": 1.0}

    counts = drawn_one_at_a_time(DrawnSet("five", 1.0, FIVE), PRIORITIZED, 4, tallies, times=2000)

    in_proportion = {name: weight / 2.0 * 2000 for name, weight in expected.items()}
    assert chi_square(counts, in_proportion) < CHI_SQUARE_AT_1_PER_MILLE[3]


def test_a_chi_square_of_draws_in_the_wrong_proportion_is_far_too_large() -> None:
    tallies = {"a": Tally(10, 9), "b": Tally(10, 6), "c": Tally(4, 2), "d": Tally(8, 8)}

    counts = drawn_one_at_a_time(DrawnSet("five", 1.0, FIVE), PRIORITIZED, 4, tallies, times=2000)

    assert chi_square(counts, dict.fromkeys("abce", 500.0)) > 5 * CHI_SQUARE_AT_1_PER_MILLE[3]


def test_prioritized_fills_up_with_solved_problems_where_the_others_do_not_suffice() -> None:
    rates = failure_rates(FIVE, {name: Tally(8, 8) for name in "abcd"})

    drawn = draw_weighted(rates, 3, np.zeros(5, dtype=np.int64), np.random.default_rng(1))

    assert len(set(drawn)) == 3
    assert FIVE.index("e") in drawn


@given(
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=5, max_size=5),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.integers(0, 30),
    st.integers(0, 99),
)
def test_no_problem_is_drawn_again_before_all_others_have_come_as_often(
    weights: list[float], taken: list[int], num_problems: int, seed: int
) -> None:
    counts = np.array(taken)

    drawn = draw_weighted(np.array(weights), num_problems, counts, np.random.default_rng(seed))

    after = counts + np.bincount(drawn, minlength=5)
    assert len(drawn) == num_problems
    assert all(after[index] - 1 <= after.min() for index in drawn)


def test_a_curriculum_begins_with_the_easiest_by_label_and_draws_each_of_them_as_often() -> None:
    sampling = SamplingSpec(strategy=SamplingStrategy.CURRICULUM, curriculum=CurriculumSpec(start_share=0.6))

    counts = drawn_one_at_a_time(LABELLED, sampling, 1, {}, times=1500)

    assert chi_square(counts, dict.fromkeys("abc", 500.0)) < CHI_SQUARE_AT_1_PER_MILLE[2]


def test_a_curriculum_ends_with_the_hardest() -> None:
    spec = CurriculumSpec(start_share=1, ramp_iterations=10, end_share=0.4)
    sampling = SamplingSpec(strategy=SamplingStrategy.CURRICULUM, curriculum=spec)

    before = drawn_one_at_a_time(LABELLED, sampling, 10, {}, times=1000)
    after = drawn_one_at_a_time(LABELLED, sampling, 11, {}, times=1000)

    assert chi_square(before, dict.fromkeys(FIVE, 200.0)) < CHI_SQUARE_AT_1_PER_MILLE[4]
    assert chi_square(after, dict.fromkeys("de", 500.0)) < CHI_SQUARE_AT_1_PER_MILLE[1]


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_a_curriculum_opens_more_ranks_with_each_iteration_and_always_enough(
    start: float, end: float, iterations: int, num_ranks: int, num_wanted: int
) -> None:
    spec = CurriculumSpec(start_share=start, ramp_iterations=iterations, end_share=end)

    opened = [open_ranks(spec, num_ranks, num_wanted, iteration) for iteration in range(1, iterations + 2)]

    assert all(ranks.start == 0 for ranks in opened[:-1])
    assert [len(ranks) for ranks in opened[:-1]] == sorted(len(ranks) for ranks in opened[:-1])
    assert opened[-1].stop == num_ranks
    assert min(len(ranks) for ranks in opened) >= min(num_wanted, num_ranks)


def test_problems_of_one_difficulty_are_ranked_at_random_and_always_alike() -> None:
    difficulties = np.array([2.0] * 30 + [1.0])

    orders = [ranked(difficulties, [seed]).tolist() for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]
    assert {order[0] for order in orders} == {30}


def test_the_pass_rate_ranks_untried_problems_in_the_middle() -> None:
    difficulties = difficulties_by_pass_rate(
        ("solved", "untried", "failed", "once"), {"solved": Tally(8, 8), "failed": Tally(8, 0), "once": Tally(1, 1)}
    )

    assert difficulties.tolist() == pytest.approx([0.1, 0.5, 0.9, 1 / 3])


def test_a_curriculum_by_pass_rate_leaves_what_turned_out_hard_for_later() -> None:
    tallies = {"a": Tally(8, 8), "b": Tally(8, 8), "c": Tally(8, 0), "d": Tally(8, 0), "e": Tally(8, 0)}
    spec = CurriculumSpec(difficulty=DifficultySource.PASS_RATE, start_share=0.4)
    sampling = SamplingSpec(strategy=SamplingStrategy.CURRICULUM, curriculum=spec)

    counts = drawn_one_at_a_time(LABELLED, sampling, 1, tallies, times=400)

    assert chi_square(counts, dict.fromkeys("ab", 200.0)) < CHI_SQUARE_AT_1_PER_MILLE[1]


def test_a_mixture_gives_each_strategy_its_share() -> None:
    solved = {name: Tally(8, 8) for name in "abcd"}
    shares = StrategyShares(prioritized=3, curriculum=1)
    sampling = SamplingSpec(
        strategy=SamplingStrategy.MIXTURE, shares=shares, curriculum=CurriculumSpec(start_share=0.2)
    )

    counts = drawn_one_at_a_time(LABELLED, sampling, 1, solved, times=2000)

    assert chi_square(counts, {"e": 1500.0, "a": 500.0}) < CHI_SQUARE_AT_1_PER_MILLE[1]


@given(st.sampled_from(EVERY), st.integers(1, 12), st.integers(0, 12), st.integers(0, 99))
def test_no_strategy_draws_a_problem_twice_where_there_are_enough(
    sampling: SamplingSpec, num_problems: int, num_refills: int, seed: int
) -> None:
    item = DrawnSet("many", 1.0, tuple(map(str, range(24))), tuple(map(float, range(24))))
    drawing = Drawing(sampling, num_problems, seed)

    drawn = draw_problems([item], drawing, 3, {}, SOME)
    for _ in range(num_refills):
        drawn = draw_again([item], drawing, 3, drawn, SOME)

    assert len(set(drawn.problem_ids)) == len(drawn.problem_ids) == num_problems + num_refills


def test_sets_are_drawn_from_by_weight() -> None:
    sets = [
        DrawnSet("small", 1.0, tuple(f"s{i}" for i in range(50))),
        DrawnSet("large", 3.0, tuple(f"l{i}" for i in range(50))),
    ]

    draw = draw_problems(sets, Drawing(PRIORITIZED, 4000, 5), 1, {}, {})

    counts = Counter(name[0] for name in draw.problem_ids)
    assert chi_square(counts, {"s": 1000.0, "l": 3000.0}) < CHI_SQUARE_AT_1_PER_MILLE[1]


@pytest.mark.parametrize("sampling", EVERY)
def test_a_draw_depends_on_seed_iteration_and_state_alone(sampling: SamplingSpec) -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(40))), tuple(map(float, range(40))))]

    draws = [draw_problems(sets, Drawing(sampling, 10, seed), 101, {"digits": 7}, {}) for seed in (1, 1, 2)]

    assert draws[0] == draws[1]
    assert draws[0].problem_ids != draws[2].problem_ids


@pytest.mark.parametrize("sampling", EVERY)
def test_iterations_and_refills_draw_differently(sampling: SamplingSpec) -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(40))), tuple(map(float, range(40))))]
    drawing = Drawing(sampling, 10, 1)

    first, second = drawn_in_a_row(sets, drawing, 2)
    refilled = draw_again(sets, drawing, 1, draw_again(sets, drawing, 1, first, {}), {})

    assert first.problem_ids != second.problem_ids
    assert len({refilled.problem_ids[-2], refilled.problem_ids[-1]}) == 2


def test_uniform_iterations_together_make_whole_passes() -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(12))))]

    draws = drawn_in_a_row(sets, Drawing(UNIFORM, 4, 9), iterations=3)

    assert sorted(name for draw in draws for name in draw.problem_ids) == sorted(map(str, range(12)))
    assert draws[-1].positions == {"digits": 12}


def test_only_what_a_mixture_draws_uniformly_moves_its_row_on() -> None:
    sets = [DrawnSet("digits", 1.0, tuple(map(str, range(40))), tuple(map(float, range(40))))]

    draws = drawn_in_a_row(sets, Drawing(MIXTURE, 8, 9), iterations=3)

    assert 0 < draws[-1].positions["digits"] < 24


def run_an_iteration(buffer: Buffer, sampling: SamplingSpec, iteration: int) -> Draw:
    """Draw from what the buffer holds, finish one try of each problem, half of them well, and commit."""
    before = buffer.draw_of(iteration - 1)
    positions = before.positions if before else {}
    drawn = draw_problems([LABELLED], Drawing(sampling, 3, 7), iteration, positions, buffer.tallies())
    opened = [
        Trajectory(id=f"{iteration}-{index}", group=f"{iteration}-{index}", problem_id=name, prompt_token_ids=(7, 8))
        for index, name in enumerate(drawn.problem_ids)
    ]
    buffer.begin(iteration, drawn, opened)
    done = [item.model_copy(update={"segments": (segment(iteration - 1, 5, 0),)}) for item in opened]
    buffer.record(iteration, [finished(item, float(index % 2)) for index, item in enumerate(done)])
    buffer.commit(iteration, [item.id for item in opened])
    return drawn


def draws_of_a_run(sampling: SamplingSpec, restarts: frozenset[int]) -> list[Draw]:
    """The draws of eight iterations; before some of them the master, killed amid the iteration, starts anew."""
    draws = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "buffer.sqlite"
        buffer = open_buffer(path)
        for iteration in range(1, 9):
            if iteration in restarts:
                run_an_iteration(buffer, sampling, iteration)
                buffer.close()
                buffer = open_buffer(path)
                buffer.rollback(iteration - 1)
                draws.append(run_again(buffer, sampling, iteration))
            else:
                draws.append(run_an_iteration(buffer, sampling, iteration))
        with closing(buffer):
            return draws


def run_again(buffer: Buffer, sampling: SamplingSpec, iteration: int) -> Draw:
    """Commit the iteration whose draw and samples a rollback has kept."""
    drawn = buffer.draw_of(iteration)
    assert drawn is not None
    buffer.commit(iteration, [f"{iteration}-{index}" for index in range(len(drawn.problem_ids))])
    return drawn


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EVERY), st.frozensets(st.integers(1, 8), min_size=1))
def test_a_run_that_is_killed_and_resumed_draws_what_an_uninterrupted_one_does(
    sampling: SamplingSpec, restarts: frozenset[int]
) -> None:
    assert draws_of_a_run(sampling, restarts) == draws_of_a_run(sampling, frozenset())
