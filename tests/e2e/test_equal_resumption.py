"""Killed at random moments, a deterministic job ends bit for bit as one that nobody has killed; any other one loses
nothing and trains nothing twice.
"""

from pathlib import Path

import pytest

from tests.e2e.ends import End
from tests.e2e.killing import EVERYTHING, MASTER
from tests.e2e.moments import planned_kills
from tests.e2e.resumption import (
    NUM_ITERATIONS,
    SHARES,
    run_killed,
    run_killed_freely,
    run_undisturbed,
    too_narrow,
)

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]


@pytest.fixture(scope="module")
def undisturbed(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> End:
    return run_undisturbed(tmp_path_factory.mktemp("whole"), toy, iterations=NUM_ITERATIONS)


@pytest.mark.campaign  # one and a half minutes
def test_a_deterministic_job_that_is_killed_ends_as_one_that_is_not(toy: Path, tmp_path: Path) -> None:
    expected = run_undisturbed(tmp_path / "whole", toy, iterations=8)
    kills = planned_kills(8, 3, 8, {MASTER: 0.75, EVERYTHING: 0.25})

    killed = run_killed(tmp_path / "killed", toy, 8, kills, expected, iterations=8)

    assert killed.problems == ()
    assert len(killed.hits) == len(kills)


@pytest.mark.campaign  # six minutes each
@pytest.mark.parametrize("seed", [50, 51])
def test_a_deterministic_job_that_is_killed_25_times_ends_as_one_that_is_not(
    toy: Path, undisturbed: End, tmp_path: Path, seed: int
) -> None:
    kills = planned_kills(seed, 25, NUM_ITERATIONS, SHARES)

    killed = run_killed(tmp_path, toy, seed, kills, undisturbed, iterations=NUM_ITERATIONS)

    assert killed.problems == ()
    assert too_narrow(killed) == []


@pytest.mark.campaign  # three minutes
def test_a_job_that_is_killed_ten_times_loses_nothing_and_trains_nothing_twice(toy: Path, tmp_path: Path) -> None:
    kills = planned_kills(52, 10, 30, SHARES)

    killed = run_killed_freely(tmp_path, toy, 52, kills, iterations=30)

    assert killed.problems == ()
    assert too_narrow(killed) == []
