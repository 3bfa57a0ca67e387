"""The learning rate over a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.pods import OptimizerSpec, Schedule
from tandem_sidecars.megatron.schedule import learning_rate

RATE = 1e-3
STEPS = 4


def rates(spec: OptimizerSpec, iterations: int) -> list[float]:
    """The rates of all steps of a run."""
    places = [(iteration, step) for iteration in range(1, iterations + 1) for step in range(STEPS)]
    return [learning_rate(spec, iterations, iteration, step, STEPS) for iteration, step in places]


def test_constant_is_constant() -> None:
    assert rates(OptimizerSpec(learning_rate=RATE), 3) == [RATE] * 12


def test_a_warm_up_rises_step_by_step_and_its_last_step_has_the_whole_rate() -> None:
    spec = OptimizerSpec(learning_rate=RATE, warmup_iterations=2)

    assert rates(spec, 3) == pytest.approx([RATE * share / 8 for share in (1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8)])


def test_linear_falls_from_the_whole_rate_towards_its_end() -> None:
    spec = OptimizerSpec(learning_rate=RATE, schedule=Schedule.LINEAR, end_share=0.2)

    assert rates(spec, 2) == pytest.approx([RATE * share for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)])


def test_cosine_is_half_a_cosine_after_the_warm_up() -> None:
    spec = OptimizerSpec(learning_rate=RATE, schedule=Schedule.COSINE, warmup_iterations=1, end_share=0.1)

    found = rates(spec, 3)

    assert found[3:5] == pytest.approx([RATE, RATE])
    assert found[8] == pytest.approx(RATE * (0.1 + 0.9 / 2))
    assert found[6] == pytest.approx(RATE * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))


def test_past_the_last_iteration_the_rate_stays_at_its_end() -> None:
    spec = OptimizerSpec(learning_rate=RATE, schedule=Schedule.LINEAR, end_share=0.25)

    assert learning_rate(spec, 5, 9, 0, STEPS) == pytest.approx(0.25 * RATE)


@given(
    st.sampled_from(Schedule),
    st.integers(0, 5),
    st.integers(6, 40),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 9),
)
def test_every_step_has_a_rate_between_nothing_and_the_whole(
    schedule: Schedule, warmup: int, iterations: int, end_share: float, num_steps: int
) -> None:
    spec = OptimizerSpec(
        learning_rate=RATE,
        schedule=schedule,
        warmup_iterations=warmup,
        end_share=0.0 if schedule is Schedule.CONSTANT else end_share,
    )

    found = [
        learning_rate(spec, iterations, iteration, step, num_steps)
        for iteration in range(1, iterations + 1)
        for step in range(num_steps)
    ]

    first = warmup * num_steps
    assert all(0 < rate <= RATE for rate in found)
    assert found[:first] == sorted(found[:first])
    assert found[first:] == sorted(found[first:], reverse=True)
    assert found[max(0, first - 1)] == pytest.approx(RATE)
