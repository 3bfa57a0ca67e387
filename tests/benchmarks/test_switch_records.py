"""What the benchmark of switches reads from a run's records."""

from pathlib import Path

import pytest
from benchmarks.switch_bench.records import (
    barrier_spread_seconds,
    notice_share,
    read_switches,
    switch_figures,
    tail_figures,
)

from tandem_api.history import RunStarted, SwitchRecord
from tandem_api.job.status import Direction
from tests.tandem_api.switches import STARTED_AT, PodTimes, switch_record, to_infer, to_train

SLOW, FAST = PodTimes(ready=0.5), PodTimes(ready=0.2)


def _bare(seconds: float, direction: Direction, *, first: bool = False) -> SwitchRecord:
    """A switch of which only the duration matters."""
    return switch_record((), seconds, direction, first=first)


def test_the_spread_is_how_much_later_the_last_pod_was_ready() -> None:
    stages, seconds = to_infer([SLOW, FAST, SLOW])

    spread = barrier_spread_seconds(switch_record(stages, seconds, Direction.TRAIN_TO_INFER))

    assert spread == pytest.approx(0.3)


def test_a_single_pod_has_no_spread() -> None:
    stages, seconds = to_infer([SLOW])

    assert barrier_spread_seconds(switch_record(stages, seconds, Direction.TRAIN_TO_INFER)) == 0.0


def test_medians_leave_the_first_switch_out() -> None:
    into_infer, back = Direction.TRAIN_TO_INFER, Direction.INFER_TO_TRAIN
    switches = [_bare(9.0, into_infer, first=True), *(_bare(seconds, into_infer) for seconds in (1.0, 2.0, 4.0))]
    switches += [_bare(seconds, back) for seconds in (0.1, 0.3)]

    figures = switch_figures(switches)

    assert figures["full_switch_train_to_infer_seconds"] == 2.0
    assert figures["full_switch_infer_to_train_seconds"] == pytest.approx(0.2)


def test_the_share_counts_all_segments_and_notices_apart() -> None:
    stages, seconds = to_infer([FAST])
    back, back_seconds = to_train([FAST])
    switch = switch_record(stages, seconds, Direction.TRAIN_TO_INFER)

    figures = switch_figures([switch, switch_record(back, back_seconds, Direction.INFER_TO_TRAIN)])

    assert figures["critical_path_share"] == pytest.approx(1.0, abs=0.01)
    assert figures["critical_path_share_least"] <= figures["critical_path_share"]
    assert 0.0 < notice_share(switch) < 0.1


def test_tails_are_told_for_each_direction_and_the_worse_one_again() -> None:
    switches = [_bare(1.0, Direction.TRAIN_TO_INFER)] * 98 + [_bare(3.0, Direction.TRAIN_TO_INFER)] * 2
    switches += [_bare(0.1, Direction.INFER_TO_TRAIN)] * 100

    figures = tail_figures(switches)

    assert figures["train_to_infer_p99_over_median"] == 3.0
    assert figures["infer_to_train_p99_over_median"] == 1.0
    assert figures["p99_over_median"] == 3.0


def test_only_whole_lines_of_switches_are_read(tmp_path: Path) -> None:
    started = RunStarted(at=STARTED_AT, job="toy", iteration=0, iterations=2).model_dump_json(by_alias=True)
    switch = _bare(1.0, Direction.TRAIN_TO_INFER).model_dump_json(by_alias=True)
    (tmp_path / "metrics.jsonl").write_text(f"{started}\n{switch}\n{switch}\n{switch[:40]}")

    switches = read_switches(tmp_path / "metrics.jsonl")

    assert [item.seconds for item in switches] == [1.0, 1.0]
