"""Invariant 4 as the checker sees it: no trajectory is lost, none is trained twice, an iteration commits once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.history import BufferSnapshot, DiaryEntry
from tests.faults.invariants.trajectories import check_kept_trajectories
from tests.faults.values import ProgressValue
from tests.faults.written import calm, changes, committed, entry, row, segment, snapshot, started, word

TRAINED = row("a", state="Trained", finished=1, trained=1)
FINISHED = row("a", state="Finished", finished=1)


def problems_of(first: BufferSnapshot, *later: BufferSnapshot, back_to: int | None = None) -> list[str]:
    """Return what snapshots at 120, 121, ... seconds show. `back_to`: a start at 120.5 s says that it begins there."""
    snapshots = [replace(one, at=120.0 + number) for number, one in enumerate((first, *later))]
    diary = [] if back_to is None else [entry(120.5, started(back_to))]
    history = replace(calm(), diary=tuple(diary), snapshots=tuple(snapshots))
    return [one.text for one in check_kept_trajectories(history)]


def diary_problems(*entries: DiaryEntry) -> list[str]:
    return [one.text for one in check_kept_trajectories(replace(calm(), diary=entries, snapshots=()))]


def test_a_calm_history_holds() -> None:
    assert check_kept_trajectories(calm()) == []


def test_a_trajectory_that_is_gone_is_found() -> None:
    assert problems_of(snapshot(row("a")), snapshot(vanished=("a",))) == ["trajectory a is gone"]


def test_a_rollback_removes_what_a_later_iteration_has_drawn() -> None:
    first = snapshot(row("a", iteration=3, segments=()), committed=(1, 2))

    assert problems_of(first, snapshot(vanished=("a",), committed=(1,)), back_to=1) == []


def test_a_rollback_that_removes_more_is_found() -> None:
    first = snapshot(row("a", iteration=2), committed=(1,))

    assert len(problems_of(first, snapshot(vanished=("a",), committed=(1,)), back_to=1)) == 1


def test_a_trajectory_that_is_trained_again_is_found() -> None:
    again = snapshot(replace(TRAINED, trained_iteration=2), committed=(1, 2))

    assert any("was trained in iteration 1" in text for text in problems_of(snapshot(TRAINED, committed=(1,)), again))


def test_a_trained_trajectory_that_is_only_finished_again_is_found() -> None:
    later = snapshot(replace(FINISHED, finished_iteration=1), committed=(1,))

    assert problems_of(snapshot(TRAINED, committed=(1,)), later) != []


def test_a_rollback_undoes_what_was_trained_after_it() -> None:
    first = snapshot(replace(TRAINED, finished_iteration=2, trained_iteration=2), committed=(1, 2))
    second = snapshot(replace(FINISHED, finished_iteration=2), committed=(1,))

    assert problems_of(first, second, back_to=1) == []


def test_sampled_tokens_that_change_are_found() -> None:
    first = snapshot(row("a", segments=(segment(digest="x"),)))

    assert len(problems_of(first, snapshot(row("a", segments=(segment(digest="y"),))))) == 1
    assert len(problems_of(first, snapshot(row("a", segments=())))) == 1


def test_a_group_that_is_trained_in_parts_is_found() -> None:
    parts = (TRAINED, row("b", state="Finished", finished=1))

    assert any("in parts" in text for text in problems_of(snapshot(*parts, committed=(1,))))


def test_a_complete_group_that_no_iteration_trains_is_found() -> None:
    assert problems_of(snapshot(FINISHED, committed=(1,))) == ["group g was complete and was never trained"]


def test_a_group_that_an_iteration_leaves_out_before_it_commits_is_none() -> None:
    left_out = row("a", state="Rejected", iteration=2, finished=2, trained=2)

    assert problems_of(snapshot(FINISHED), snapshot(left_out, committed=(1,))) == []


def test_a_member_that_no_reward_function_could_score_takes_no_part() -> None:
    unscored = row("b", state="Unscored", finished=1)

    assert problems_of(snapshot(TRAINED, unscored, committed=(1,))) == []


def test_training_that_no_commit_stands_for_is_found() -> None:
    assert len(problems_of(snapshot(TRAINED, committed=()))) == 1


@pytest.mark.parametrize(("count", "num_problems"), [(1, 0), (2, 1)])
def test_an_acknowledged_trajectory_that_is_not_durable_is_found(count: int, num_problems: int) -> None:
    said = ("progress", ProgressValue(activity="sampling", iteration=0, completed_trajectories=count))
    kept = snapshot(row("a", state="Finished", finished=1))
    history = replace(calm(), diary=(), snapshots=(kept,), changes=changes(said))

    assert len(check_kept_trajectories(history)) == num_problems


def test_a_commit_that_is_taken_back_without_a_rollback_is_found() -> None:
    assert len(problems_of(snapshot(committed=(1, 2)), snapshot(committed=(1,)))) == 1


def test_an_iteration_that_commits_twice_is_found() -> None:
    again = diary_problems(entry(1.0, started(0)), entry(2.0, committed(1)), entry(3.0, committed(1)))

    assert again == ["iteration 1 committed after 1"]


def test_an_iteration_that_is_left_out_is_found() -> None:
    assert len(diary_problems(entry(1.0, started(0)), entry(2.0, committed(2)))) == 1


def test_a_start_after_more_than_was_committed_is_found() -> None:
    assert len(diary_problems(entry(1.0, started(0)), entry(2.0, committed(1)), entry(3.0, started(2)))) == 1


def test_a_start_that_goes_back_is_none() -> None:
    entries = [entry(1.0, started(0)), entry(2.0, committed(1)), entry(3.0, started(0)), entry(4.0, committed(1))]

    assert diary_problems(*entries) == []


def test_a_new_lineage_may_commit_the_same_numbers_again() -> None:
    diary = [entry(1.0, started(0)), entry(2.0, committed(1)), entry(3.0, committed(2)), entry(104.0, committed(2))]
    words = changes(
        word(1, "Infer", 0, lineage="a"), word(2, "Train", 0, lineage="a"), word(3, "Infer", 1, lineage="b")
    )
    history = replace(calm(), diary=tuple(diary), snapshots=())

    assert len(check_kept_trajectories(replace(history, changes=words[:2]))) == 1
    assert check_kept_trajectories(replace(history, changes=words)) == []


@given(st.lists(st.sampled_from(["commit", "restart"]), max_size=30), st.data())
def test_any_run_with_restarts_holds_until_a_commit_is_taken_out(steps: list[str], data: st.DataObject) -> None:
    entries = run_diary(steps)

    assert diary_problems(*entries) == []

    middle = [number for number in range(1, len(entries) - 1) if is_commit(entries[number], entries[number + 1])]
    victim = data.draw(st.sampled_from(middle)) if middle else None
    shortened = [one for number, one in enumerate(entries) if number != victim]
    assert bool(diary_problems(*shortened)) == bool(middle)


def run_diary(steps: list[str]) -> list[DiaryEntry]:
    """Return the diary of a job that keeps a checkpoint of every third iteration."""
    entries, done = [entry(0.0, started(0))], 0
    for number, step in enumerate(steps, start=1):
        done = done + 1 if step == "commit" else done - done % 3
        entries.append(entry(float(number), committed(done) if step == "commit" else started(done)))
    return entries


def is_commit(one: DiaryEntry, following: DiaryEntry) -> bool:
    """Tell whether an entry is a commit whose absence shows: another one follows it."""
    return one.record.kind == "iteration" and following.record.kind == "iteration"
