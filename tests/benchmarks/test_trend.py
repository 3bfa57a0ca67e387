"""Trends over switches: growth is found, noise and shrinking are not, and the p-value says how sure that is."""

import numpy as np
import pytest
from benchmarks.switch_bench.trend import num_warm_up, trend

SWITCHES = tuple(range(2, 202, 2))


def _noise(scale: float) -> list[float]:
    return [float(value) for value in np.random.default_rng(7).normal(scale=scale, size=len(SWITCHES))]


def test_a_straight_line_has_its_slope_and_no_doubt() -> None:
    found = trend(SWITCHES, [3.0 * switch + 40.0 for switch in SWITCHES])

    assert found.per_100_switches == pytest.approx(300.0)
    assert found.p_value <= 0.001


def test_growth_is_found_below_noise_ten_times_its_step() -> None:
    found = trend(SWITCHES, [0.5 * switch + noise for switch, noise in zip(SWITCHES, _noise(10.0), strict=True)])

    assert found.per_100_switches == pytest.approx(50.0, abs=10.0)
    assert found.p_value <= 0.001


def test_noise_alone_is_no_growth() -> None:
    found = trend(SWITCHES, _noise(10.0))

    assert found.p_value > 0.05


def test_what_shrinks_does_not_grow() -> None:
    found = trend(SWITCHES, [-3.0 * switch for switch in SWITCHES])

    assert found.per_100_switches == pytest.approx(-300.0)
    assert found.p_value == 1.0


def test_what_stays_the_same_has_no_slope_and_a_p_value_of_one() -> None:
    found = trend(SWITCHES, [9.0] * len(SWITCHES))

    assert found.per_100_switches == 0.0
    assert found.p_value == 1.0


@pytest.mark.parametrize(("num_samples", "left_out"), [(500, 50), (30, 3), (10, 3)])
def test_a_tenth_of_the_samples_but_at_least_three_are_warm_up(num_samples: int, left_out: int) -> None:
    assert num_warm_up(num_samples) == left_out
