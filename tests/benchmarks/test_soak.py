"""The soak's figures: what grew over many switches, by whom, and how long the slowest switches took."""

import pytest
from benchmarks.report.result import PartError
from benchmarks.switch_bench.soak import memory_trends, soak_figures
from benchmarks.switch_bench.usage import Usage

from tandem_api.history import SwitchRecord
from tandem_api.job.status import Direction

NUM_READINGS = 40
MEBIBYTE = 1 << 20


def _reading(number: int, *, leaked_threads: int = 0) -> Usage:
    """A reading after so many iterations of a job whose engine keeps a mebibyte in each."""
    memory = {"engine": 100 * MEBIBYTE + number * MEBIBYTE, "etcd": 30 * MEBIBYTE}
    return Usage(
        switches=2 * number,
        at=100.0 + number,
        seconds=0.2,
        processes=9,
        memory_bytes=sum(memory.values()),
        file_descriptors=120,
        threads=60 + leaked_threads,
        shm_entries=7,
        shm_bytes=5 * MEBIBYTE,
        etcd_bytes=64 * MEBIBYTE,
        etcd_keys=25,
        memory_bytes_by_program=memory,
    )


def _switches(started_at: float = 0.0) -> list[SwitchRecord]:
    return [
        SwitchRecord(
            epoch=number,
            iteration=1,
            generation=0,
            direction=direction,
            started_at=started_at,
            seconds=1.0,
            stages=(),
        )
        for number, direction in enumerate(Direction, 1)
    ]


def test_what_grows_is_told_with_its_slope_and_what_does_not_with_a_p_value_of_one() -> None:
    figures = soak_figures([_reading(number) for number in range(NUM_READINGS)], _switches())

    assert figures["soak_memory_bytes_per_100_switches"] == pytest.approx(50 * MEBIBYTE)
    assert figures["soak_memory_bytes_p_value"] <= 0.001
    assert figures["soak_threads_per_100_switches"] == 0.0
    assert figures["soak_threads_p_value"] == 1.0
    assert figures["soak_p99_over_median"] == 1.0


def test_what_comes_once_while_the_job_warms_up_is_no_growth() -> None:
    warming = [_reading(number, leaked_threads=number) for number in range(4)]
    warm = [_reading(number, leaked_threads=4) for number in range(4, NUM_READINGS)]

    figures = soak_figures([*warming, *warm], _switches())

    assert figures["soak_readings"] == NUM_READINGS - 4
    assert figures["soak_threads_p_value"] == 1.0


def test_readings_that_were_not_over_when_a_switch_began_are_counted_and_left_out() -> None:
    readings = [_reading(number) for number in range(NUM_READINGS)]

    between = soak_figures(readings, [item.model_copy(update={"seconds": 0.5}) for item in _switches(103.3)])
    within = soak_figures(readings, [item.model_copy(update={"seconds": 0.5}) for item in _switches(103.1)])

    assert between["soak_readings_during_switches"] == 0
    assert within["soak_readings_during_switches"] == 1
    assert within["soak_readings"] == between["soak_readings"] - 1
    assert within["soak_reading_seconds"] == 0.2


def test_what_fills_up_comes_to_rest_in_the_second_half() -> None:
    filling = [_reading(number, leaked_threads=min(number, NUM_READINGS // 2)) for number in range(NUM_READINGS)]

    figures = soak_figures(filling, _switches())

    assert figures["soak_threads_per_100_switches"] > 10
    assert figures["soak_threads_p_value"] <= 0.001
    assert figures["soak_threads_per_100_switches_second_half"] == 0.0
    assert figures["soak_threads_p_value_second_half"] == 1.0


def test_the_program_that_grows_is_named() -> None:
    trends = memory_trends([_reading(number) for number in range(NUM_READINGS)])

    assert trends["engine"].per_100_switches == pytest.approx(50 * MEBIBYTE)
    assert trends["etcd"].p_value == 1.0


def test_too_few_readings_are_refused() -> None:
    with pytest.raises(PartError, match="5 readings show no trend; ask for more switches"):
        soak_figures([_reading(number) for number in range(5)], _switches())
