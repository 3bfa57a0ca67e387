"""The run folder: one run at a time, and no run overwritten."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem_cli.errors import MachineError, UserError
from tandem_cli.local.run_folder import HISTORY, MARKER, Start, run_folder
from tests.tandem_cli.fake_history import fake_records, lines_of

Hold = Callable[[str], Path]


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    """Makes a run folder of the job `math` that holds this history."""

    def make(history: str) -> Path:
        path = tmp_path / "held"
        with run_folder(path, "math", Start.REFUSE):
            (path / HISTORY).write_text(history)
            (path / "checkpoints" / "3").mkdir(parents=True)
            (path / "buffer.sqlite").write_text("rows")
        return path

    return make


def names_in(path: Path) -> set[str]:
    return {item.name for item in path.iterdir()}


def test_a_new_folder_is_made_and_signed(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "math"

    with run_folder(path, "math", Start.REFUSE) as opened:
        assert opened == path
        assert json.loads((path / MARKER).read_text()) == {"job": "math", "pid": os.getpid()}


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    with run_folder(tmp_path, "math", Start.REFUSE):
        assert names_in(tmp_path) == {MARKER}


def test_a_folder_may_be_used_again_where_no_run_began(tmp_path: Path) -> None:
    with run_folder(tmp_path, "math", Start.REFUSE):
        pass

    with run_folder(tmp_path, "math", Start.REFUSE):
        assert names_in(tmp_path) == {MARKER}


def test_a_folder_serves_one_command_at_a_time(tmp_path: Path) -> None:
    with run_folder(tmp_path, "math", Start.REFUSE), pytest.raises(UserError, match="math is running already in "):
        run_folder(tmp_path, "math", Start.FRESH).__enter__()


def test_a_folder_is_free_again_after_a_command_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_folder(tmp_path, "math", Start.REFUSE):
        raise RuntimeError

    with run_folder(tmp_path, "math", Start.REFUSE):
        assert names_in(tmp_path) == {MARKER}


@pytest.mark.parametrize("start", Start)
def test_a_folder_with_other_files_is_never_taken(tmp_path: Path, start: Start) -> None:
    (tmp_path / "thesis.tex").write_text("years")

    with pytest.raises(UserError, match="holds other files; "):
        run_folder(tmp_path, "math", start).__enter__()

    assert names_in(tmp_path) == {"thesis.tex"}


@pytest.mark.parametrize(
    ("history", "description"),
    [
        (lines_of(fake_records(iterations=3)), "a finished run (3 iterations)"),
        (lines_of(fake_records(iterations=3, result="Stopped")), "an interrupted run (3 iterations)"),
        (lines_of(fake_records(iterations=3, result="Failed")), "an interrupted run (3 iterations)"),
        (lines_of(fake_records(iterations=1, result=None)), "an interrupted run (1 iteration)"),
        (lines_of(fake_records(iterations=1, result=None))[:-9], "an interrupted run (0 iterations)"),
        ("", "an interrupted run (0 iterations)"),
        ("no record\n", "an unreadable run"),
    ],
)
def test_a_held_run_is_described(hold: Hold, history: str, description: str) -> None:
    path = hold(history)

    with pytest.raises(UserError) as refusal:
        run_folder(path, "math", Start.REFUSE).__enter__()

    offer = "add --resume to go on, or --fresh to delete it and start over"
    assert refusal.value.lines == (f"{path}: holds {description}; {offer}",)


def test_resume_keeps_what_the_run_left(hold: Hold) -> None:
    path = hold(lines_of(fake_records(iterations=2, result=None)))

    with run_folder(path, "math", Start.RESUME):
        assert names_in(path) == {MARKER, HISTORY, "checkpoints", "buffer.sqlite"}


def test_resume_wants_the_same_job(hold: Hold) -> None:
    path = hold(lines_of(fake_records(iterations=2)))

    with pytest.raises(UserError, match="holds the job math, not code; "):
        run_folder(path, "code", Start.RESUME).__enter__()

    assert json.loads((path / MARKER).read_text())["job"] == "math"


def test_resume_goes_on_where_a_crash_spoilt_the_marker(hold: Hold) -> None:
    path = hold(lines_of(fake_records(iterations=2, result=None)))
    (path / MARKER).write_bytes(b"\0\0\0\0")

    with run_folder(path, "math", Start.RESUME):
        assert json.loads((path / MARKER).read_text())["job"] == "math"


def test_resume_wants_a_history_that_can_be_read(hold: Hold) -> None:
    path = hold("no record\n")

    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read; repair it, or start over with --fresh"):
        run_folder(path, "math", Start.RESUME).__enter__()


def test_resume_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run; leave the option out"):
        run_folder(tmp_path, "math", Start.RESUME).__enter__()


def test_fresh_deletes_the_run_and_nothing_beyond_the_folder(hold: Hold, tmp_path: Path) -> None:
    path = hold("no record\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (path / "link").symlink_to(outside)

    with run_folder(path, "code", Start.FRESH):
        assert names_in(path) == {MARKER}

    assert names_in(outside) == {"kept"}


def test_fresh_also_deletes_a_run_that_left_no_history(hold: Hold) -> None:
    path = hold("")
    (path / HISTORY).unlink()

    with run_folder(path, "math", Start.FRESH):
        assert names_in(path) == {MARKER}


def test_a_folder_that_cannot_be_made_is_the_machines_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MachineError, match=r"cannot be written \(Not a directory\); choose another with --run-dir"):
        run_folder(tmp_path / "file" / "run", "math", Start.REFUSE).__enter__()
