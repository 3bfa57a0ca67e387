"""Reading `metrics.jsonl` back."""

from pathlib import Path

import pytest

from tandem_cli.report.history import History, HistoryError, extend, read_history
from tests.tandem_cli.fake_history import STARTED_AT, fake_history, fake_records, lines_of


def test_a_history_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(fake_records(iterations=3)))

    history = read_history(path)

    assert history == fake_history(iterations=3)
    assert (len(history.iterations), len(history.switches), len(history.phases)) == (3, 6, 6)
    assert history.ended is not None
    assert history.ended.result == "Completed"


def test_an_empty_file_is_an_empty_history(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")

    assert read_history(path) == History()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(fake_records(iterations=2))[:-30])

    history = read_history(path)

    assert len(history.iterations) == 2
    assert history.ended is None


def test_a_whole_last_line_counts_even_without_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(fake_records(iterations=2)).rstrip("\n"))

    assert read_history(path).ended is not None


def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(fake_records(iterations=1)[:1]) + '{"kind": "phase"}\n' + "\n")

    with pytest.raises(HistoryError, match=r"metrics\.jsonl:2: phase\.phase: Field required; "):
        read_history(path)


def test_a_whole_last_line_that_is_no_record_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "runSta\n')

    with pytest.raises(HistoryError, match=r"metrics\.jsonl:1: "):
        read_history(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"metrics\.jsonl: no such file; "):
        read_history(tmp_path / "metrics.jsonl")


def test_of_an_iteration_that_was_done_twice_the_later_record_wins() -> None:
    killed = fake_records(iterations=4, wanted=6, result=None, seed=1)
    resumed = fake_records(iterations=3, complete_before=3, started_at=STARTED_AT + 500, seed=2)

    history = extend(History(), killed + resumed)

    assert [record.iteration for record in history.iterations] == [1, 2, 3, 4, 5, 6]
    assert history.iterations[3].at > STARTED_AT + 500
    assert len(history.switches) == 14


def test_iterations_past_the_one_that_a_run_resumes_from_are_void() -> None:
    killed = fake_records(iterations=4, wanted=6, result=None, seed=1)
    resumed = fake_records(iterations=1, complete_before=1, wanted=6, result=None, started_at=STARTED_AT + 500)

    history = extend(History(), killed + resumed)

    assert [record.iteration for record in history.iterations] == [1, 2]
    assert history.generation == 2


def test_a_run_that_was_killed_lasts_until_its_last_record() -> None:
    records = fake_records(iterations=2, result=None)

    (run,) = extend(History(), records).runs

    assert run.ended is None
    assert run.until == pytest.approx(extend(History(), records).iterations[-1].at)


def test_extending_record_by_record_gives_the_same_as_all_at_once() -> None:
    *earlier, last = fake_records(iterations=3)

    assert extend(extend(History(), earlier), [last]) == fake_history(iterations=3)
