"""The live view on terminals of several widths."""

from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, MemberState, MemberStatus, Progress
from tandem_cli.live.flow import flow
from tandem_cli.live.sparkline import sparkline
from tandem_cli.live.state import (
    LiveState,
    Member,
    with_desired,
    with_history,
    with_member,
    with_progress,
    with_status,
)
from tandem_cli.live.view import render
from tests.tandem_cli.fake_history import JOB, STARTED_AT, fake_history

HINT = "Ctrl-C finishes cleanly and stops"
TRAINER: Member = ("hybrid-0", "train")
SERVER: Member = ("hybrid-0", "rollout")
NEW = LiveState(job=JOB, started_at=STARTED_AT, expected_members=2, iterations=40)


def member(
    state: MemberState, generation: int | None = None, stage: str = "", error: str | None = None
) -> MemberStatus:
    return MemberStatus(incarnation="a", epoch=25, state=state, generation=generation, stage=stage, error=error)


def inferring() -> LiveState:
    state = with_history(NEW, fake_history(iterations=12, result=None))
    state = with_desired(state, Desired(epoch=25, phase=Phase.INFER, generation=12, iteration=13, deadline=0))
    state = with_progress(
        state,
        Progress(
            activity="sampling with generation 12",
            iteration=12,
            iterations=40,
            generation=12,
            completed_trajectories=412,
            wanted_trajectories=512,
            unfinished_trajectories=16,
        ),
    )
    state = with_status(state, TRAINER, member(MemberState.IDLE))
    return with_status(state, SERVER, member(MemberState.SERVING, generation=12))


def printed(state: LiveState, width: int = 100) -> str:
    console = Console(record=True, width=width, file=StringIO())
    console.print(render(state, STARTED_AT + 64, width, HINT))
    return console.export_text()


def test_a_running_job_is_told_in_a_handful_of_lines() -> None:
    lines = printed(inferring(), width=106).splitlines()

    assert lines[0].split() == [
        "reverse-digits", "iteration", "12/40", "generation", "12", "phase", "Infer", "epoch", "25", "1:04",
    ]  # fmt: skip
    assert lines[0].endswith("1:04")
    assert lines[-1].strip() == HINT
    assert len(lines) <= 10


def test_the_numbers_of_the_last_iteration_are_shown() -> None:
    text = printed(inferring())

    assert "0.47  (+0.30)" in text
    assert "6.9 tokens" in text
    assert "tokens/s  1,589" in text
    assert "KL 0.0077" in text
    assert "|Δlogp| 4.2e-06" in text


def test_the_rollout_is_a_bar_with_its_numbers() -> None:
    text = printed(inferring())

    assert "412/512" in text
    assert "16 unfinished" in text
    assert "█░" in text


def test_the_last_switch_of_each_direction_is_told_by_stage() -> None:
    text = printed(inferring(), width=120)

    assert "train→infer 1.21 s   drain 0.02 · export 0.06 · offload 0.04 · start 0.95 · load 0.05 · ready 0.11" in text
    assert "infer→train 0.29 s   abort 0.01 · stop 0.05 · reload 0.21 · ready 0.04" in text


def test_each_pod_tells_what_its_trainer_and_its_server_do() -> None:
    assert "hybrid-0  trainer asleep  server serving g12" in printed(inferring())


def test_before_the_first_phase_it_says_what_is_waited_for() -> None:
    one = with_member(NEW, TRAINER, is_registered=True)
    both = with_member(one, SERVER, is_registered=True)

    assert "starting: 1 of 2 engines registered" in printed(one)
    assert "starting: all 2 engines registered, waiting for the master's first phase" in printed(both)


def test_during_a_switch_it_says_who_is_late_and_in_which_stage() -> None:
    state = with_status(inferring(), SERVER, member(MemberState.SWITCHING, stage="Loading"))

    text = printed(state)

    assert "phase train→infer" in text
    assert "switching, waits for hybrid-0 server (loading)" in text
    assert "server switching: loading" in text


def test_a_failed_member_stands_first_with_its_cause() -> None:
    failed = member(MemberState.FAILED, error="out of memory")

    text = printed(with_status(inferring(), ("hybrid-7", "rollout"), failed))

    assert "pods         hybrid-7  server failed: out of memory" in text


def test_the_cause_of_a_failed_job_is_shown() -> None:
    state = with_progress(
        inferring(), Progress(activity="stopped", iteration=12, iterations=40, generation=12, error="no server answers")
    )

    assert "no server answers" in printed(state)


def test_pods_beyond_the_eighth_are_counted() -> None:
    state = inferring()
    state = LiveState(
        job=JOB,
        started_at=STARTED_AT,
        expected_members=24,
        iterations=40,
        desired=state.desired,
        statuses={(f"hybrid-{index}", "train"): member(MemberState.IDLE) for index in range(12)},
    )

    text = printed(state)

    assert "hybrid-7  trainer" in text
    assert "hybrid-8" not in text
    assert "and 4 pods more" in text


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
@pytest.mark.parametrize("state", [NEW, inferring()], ids=["new", "running"])
def test_no_line_is_wider_than_the_terminal(state: LiveState, width: int) -> None:
    assert max(len(line) for line in printed(state, width).splitlines()) <= width


def test_a_sparkline_goes_from_the_smallest_to_the_largest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5], 8) == sparkline([0.1], 8)
    assert sparkline([], 8) == ""


def test_a_long_sparkline_is_averaged_into_its_width() -> None:
    assert sparkline([0, 0, 0, 7, 7, 7], 2) == "▁█"
    assert len(sparkline([float(value) for value in range(1000)], 17)) == 17
    assert sparkline([1, 2], 0) == ""


def test_text_flows_between_pieces_and_never_inside_one() -> None:
    pieces = [Text("drain 0.02"), Text("export 0.06"), Text("a piece wider than the line")]

    assert flow(pieces, 24, " · ").plain == "drain 0.02 · export 0.06\na piece wider than the line"
    assert flow([], 24, " · ").plain == ""
