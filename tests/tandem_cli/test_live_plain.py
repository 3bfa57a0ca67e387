"""A running job as log lines."""

from tandem_api.history import EvaluationRecord
from tandem_api.job.status import Phase
from tandem_api.registry import Desired, MemberState, MemberStatus, Progress
from tandem_cli.live.plain import lines_for
from tandem_cli.live.state import (
    LiveState,
    with_desired,
    with_history,
    with_member,
    with_progress,
    with_records,
    with_status,
)
from tests.tandem_cli.fake_history import JOB, STARTED_AT, fake_history, fake_records

NEW = LiveState(job=JOB, started_at=STARTED_AT, expected_members=2, iterations=40)
INFER = Desired(epoch=1, phase=Phase.INFER, generation=0, iteration=1, deadline=STARTED_AT + 60)


def test_nothing_is_said_when_nothing_happened() -> None:
    assert lines_for(NEW, NEW) == []


def test_a_member_that_registers_is_counted() -> None:
    assert lines_for(NEW, with_member(NEW, ("hybrid-0", "train"), is_registered=True)) == [
        "starting: 1 of 2 engines registered"
    ]


def test_a_phase_change_is_one_line() -> None:
    assert lines_for(NEW, with_desired(NEW, INFER)) == ["phase Infer: epoch 1, generation 0"]


def test_a_finished_switch_is_one_line_with_its_stages() -> None:
    started, switch, *_ = fake_records(iterations=1, pods=("hybrid-0",))
    old = with_records(with_desired(NEW, INFER), [started])

    stages = "drain 0.02 · export 0.06 · offload 0.04 · start 10.1 · load 0.04 · ready 0.12"
    assert lines_for(old, with_records(old, [switch])) == [f"switch 1 train→infer 10.4 s (first): {stages}"]


def test_a_self_test_is_told_once() -> None:
    found = "self-test: 26 tensors equal, 9 log-probabilities within 1e-06"
    progress = Progress(activity="training", iteration=0, iterations=40, generation=0, self_test=found)
    new = with_progress(NEW, progress)

    assert found in lines_for(NEW, new)
    assert found not in lines_for(new, new)


def test_many_iterations_of_equal_rewards_are_told_once() -> None:
    progress = Progress(activity="sampling", iteration=9, iterations=40, generation=9, silent_iterations=4)
    old = with_progress(NEW, progress)
    new = with_progress(old, progress.model_copy(update={"silent_iterations": 5}))
    newer = with_progress(new, progress.model_copy(update={"silent_iterations": 6}))

    assert [line for line in lines_for(old, new) if line.startswith("in each of the last 5 iterations all samples")]
    assert not [line for line in lines_for(new, newer) if "in each of the last" in line]


def test_a_finished_iteration_is_one_line_with_its_numbers() -> None:
    *records, last, _ = fake_records(iterations=3)
    old = with_records(with_desired(NEW, INFER), records)

    (line,) = lines_for(old, with_records(old, [last]))

    assert line.startswith("iteration 3/40  reward 0.")
    assert "tokens/s  KL " in line


def test_an_evaluation_is_one_line_with_what_it_found() -> None:
    record = EvaluationRecord(
        at=STARTED_AT + 1, name="test", generation=10, problems=2, samples=7, unscored=1, pass_at={1: 0.5, 4: 1.0},
        mean_reward=0.25, mean_tokens=5.0, cut_share=0.0, sampled_tokens=40, seconds=0.5,
    )  # fmt: skip
    new = with_records(NEW, [record])

    told = "evaluation test of generation 10: pass@1 0.500, pass@4 1.000, reward 0.250, length 5.0 tokens, 1 not scored"
    assert lines_for(NEW, new) == [told]
    assert lines_for(new, new) == []


def test_an_iteration_that_is_done_again_is_told_again() -> None:
    old = with_records(with_desired(NEW, INFER), fake_records(iterations=2, result=None))
    redone = fake_records(iterations=1, complete_before=1, started_at=STARTED_AT + 500, result=None)

    lines = lines_for(old, with_records(old, redone))

    assert [line.split()[0:2] for line in lines] == [["switch", "3"], ["switch", "4"], ["iteration", "2/40"]]


def test_a_member_that_fails_is_told_once_with_its_cause() -> None:
    failed = MemberStatus(incarnation="a", epoch=1, state=MemberState.FAILED, error="out of memory")
    new = with_status(NEW, ("hybrid-0", "rollout"), failed)

    assert lines_for(NEW, new) == ["hybrid-0 server failed: out of memory"]
    assert lines_for(new, new) == []


def test_the_end_of_the_run_is_told_with_its_cause() -> None:
    old = with_desired(NEW, INFER)
    new = with_history(old, fake_history(iterations=0, result="Failed", message="no server answers"))

    assert lines_for(old, new) == ["error: no server answers", "failed after 0 of 40 iterations"]
