"""What a typical switch took so long for."""

from io import StringIO

import pytest
from rich.console import Console

from tandem_api.history import MemberStage, SwitchRecord
from tandem_api.job.status import Direction
from tandem_cli.report.critical import PathRow, median_switch, path_of, path_rows
from tandem_cli.report.history import History
from tandem_cli.report.stages import slowest_seconds
from tandem_cli.report.summary import summarize
from tandem_cli.report.table import path_table
from tandem_cli.report.timeline import lanes
from tests.tandem_api.switches import STARTED_AT, PodTimes, switch_record, to_infer, to_train

SHAPES = {Direction.TRAIN_TO_INFER: to_infer, Direction.INFER_TO_TRAIN: to_train}


def switch(direction: Direction, times: PodTimes, *, recorded: bool = True, first: bool = False) -> SwitchRecord:
    """Return the record of a switch of one hybrid pod; `recorded`: with the path that the master wrote down."""
    stages, seconds = SHAPES[direction]([times])
    record = switch_record(stages, seconds, direction, first=first)
    return record if recorded else record.model_copy(update={"critical_path": None})


def to_infer_in(start_seconds: float, *, first: bool = False) -> SwitchRecord:
    return switch(Direction.TRAIN_TO_INFER, PodTimes(start=start_seconds), first=first)


def printed(history: History, width: int = 80) -> list[str]:
    console = Console(record=True, width=width, file=StringIO())
    console.print(path_table(history))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_path_of_a_switch_that_was_recorded_without_is_worked_out() -> None:
    times = PodTimes()

    assert path_of(switch(Direction.INFER_TO_TRAIN, times, recorded=False)) == path_of(
        switch(Direction.INFER_TO_TRAIN, times)
    )


def test_the_median_switch_is_the_middle_one_without_the_first() -> None:
    switches = [to_infer_in(9.0, first=True), to_infer_in(0.3), to_infer_in(0.5), to_infer_in(0.4)]

    assert median_switch(switches, Direction.TRAIN_TO_INFER) == switches[3]
    assert median_switch(switches, Direction.INFER_TO_TRAIN) is None


def test_rows_go_along_the_path_and_end_with_what_is_unexplained() -> None:
    rows = path_rows(switch(Direction.TRAIN_TO_INFER, PodTimes(notice=0.02)), "hybrid")

    assert [(row.what, row.where) for row in rows] == [
        ("notice of word", "0 trainer"), ("drain", "0 trainer"), ("export", "0 trainer"),
        ("offload", "0 trainer"), ("notice of token", "0 server"), ("start", "0 server"), ("load", "0 server"),
        ("ready", "0 server"), ("3 shorter steps", ""), ("unexplained", ""),
    ]  # fmt: skip


def test_all_rows_together_are_the_whole_switch() -> None:
    record = switch(Direction.TRAIN_TO_INFER, PodTimes())

    assert sum(row.seconds for row in path_rows(record, "job")) == pytest.approx(record.seconds)


def test_a_switch_that_nobody_measured_is_unexplained() -> None:
    record = to_infer_in(0.5).model_copy(update={"stages": (), "critical_path": None})

    assert path_rows(record, "job") == (PathRow("unexplained", "", record.seconds),)


def test_the_table_shows_both_directions_in_eighty_columns() -> None:
    history = History(switches=(to_infer_in(0.6), switch(Direction.INFER_TO_TRAIN, PodTimes())))

    lines = printed(history)

    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert [line.split()[0] for line in lines if "→" in line] == ["train→infer", "infer→train"]
    assert [line.split()[-2:] for line in lines if "unexplained" in line] == [["0.000", "0%"], ["0.000", "0%"]]


def test_the_summary_tells_how_much_of_the_switches_is_explained() -> None:
    half = to_infer_in(0.5).model_copy(update={"critical_path": None})
    half = half.model_copy(update={"seconds": 2 * half.seconds})

    assert summarize(History(switches=(to_infer_in(0.5),))).critical_path_share == pytest.approx(1, abs=1e-5)
    assert summarize(History(switches=(half,))).critical_path_share == pytest.approx(0.5, abs=0.01)


def test_waits_and_the_masters_stages_are_no_stages_of_a_pod() -> None:
    record = switch(Direction.INFER_TO_TRAIN, PodTimes(stop=0.4))
    waiting = MemberStage(pod="hybrid-0", role="train", stage="token", waits=True, started_at=STARTED_AT, seconds=9)
    record = record.model_copy(update={"stages": (*record.stages, waiting)})

    assert list(slowest_seconds(record)) == ["abort", "stop", "reload"]
    assert [[bar.label for bar in lane.bars] for lane in lanes(History(switches=(record,)))] == [
        ["reload"], ["abort", "stop"],
    ]  # fmt: skip
