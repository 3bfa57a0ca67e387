"""A run folder that cannot be used: one line that names it and the fix, an exit code, nothing left or changed."""

from tests.tandem_cli.fake_history import fake_records, lines_of
from tests.tandem_cli.ground import MACHINE, NAME, USER, Ground, Here, refused


def test_a_name_that_is_running_already_is_named_with_its_folder(ground: Ground) -> None:
    with ground.running():
        outcome = ground.up()

    assert outcome == refused(
        USER,
        f"metadata.name: {NAME} is running already in {ground.run}; stop that run, or choose another folder with "
        "--run-dir",
    )
    assert ground.remains() == []


def test_not_even_fresh_takes_the_folder_of_a_running_job(ground: Ground, here: Here) -> None:
    with ground.running():
        outcome = here.up("--fresh")

    assert outcome.code == USER
    assert "is running already" in outcome.errors[0]
    assert ground.remains() == []


def test_a_run_folder_below_a_file_cannot_be_written(ground: Ground) -> None:
    below = ground.data / "run"

    outcome = ground.up("--run-dir", below)

    assert outcome == refused(MACHINE, f"{below}: cannot be written (Not a directory); choose another with --run-dir")
    assert ground.remains() == []


def test_a_run_folder_that_the_kernel_refuses_cannot_be_written(ground: Ground, here: Here) -> None:
    outcome = here.up("--run-dir", "/proc/run")

    assert outcome == refused(
        MACHINE, "/proc/run: cannot be written (No such file or directory); choose another with --run-dir"
    )
    assert ground.remains() == []


def test_a_run_folder_on_a_full_disk_cannot_be_written(ground: Ground, small_tmpfs: list[str]) -> None:
    full = ground.folder / "full"

    outcome = ground.up("--run-dir", full / "run", before=small_tmpfs, environment={"FILL": "yes"})

    assert outcome == refused(
        MACHINE,
        f"{full}/run: cannot be written (No space left on device); free space, or choose another with --run-dir",
    )
    assert ground.remains() == []


def test_a_folder_with_other_files_is_not_taken_for_a_run(ground: Ground, here: Here) -> None:
    outcome = here.up("--run-dir", ground.policy, "--fresh")

    assert outcome == refused(
        USER, f"{ground.policy}: holds other files; choose an empty or a new folder with --run-dir"
    )
    assert ground.remains() == []


def test_a_finished_run_is_not_overwritten(ground: Ground) -> None:
    ground.hold(lines_of(fake_records(iterations=2)))

    outcome = ground.up()

    assert outcome == refused(
        USER,
        f"{ground.run}: holds a finished run (2 iterations); add --resume to go on, or --fresh to delete it and "
        "start over",
    )
    assert ground.remains() == []


def test_an_interrupted_run_is_not_overwritten(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(fake_records(iterations=1, result=None)))

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"{ground.run}: holds an interrupted run (1 iteration); add --resume to go on, or --fresh to delete it and "
        "start over",
    )
    assert ground.remains() == []


def test_there_is_nothing_to_resume_in_an_empty_folder(ground: Ground, here: Here) -> None:
    ground.run.mkdir()

    outcome = here.up("--resume")

    assert outcome == refused(USER, f"--resume: {ground.run} holds no run; leave the option out")
    assert ground.remains() == []


def test_another_jobs_run_is_not_resumed(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(fake_records(iterations=1)), owner="math")

    outcome = here.up("--resume")

    assert outcome == refused(
        USER, f"--resume: {ground.run} holds the job math, not {NAME}; give its own folder with --run-dir"
    )
    assert ground.remains() == []


def test_a_run_whose_history_is_spoilt_is_not_resumed(ground: Ground, here: Here) -> None:
    ground.hold("no record\n")

    outcome = here.up("--resume")

    assert outcome == refused(
        USER,
        f"--resume: {ground.run}/metrics.jsonl cannot be read; repair it, or start over with --fresh",
    )
    assert ground.remains() == []


def test_resume_and_fresh_exclude_each_other(ground: Ground, here: Here) -> None:
    outcome = here.up("--resume", "--fresh")

    assert outcome.code == USER
    assert outcome.errors[-1] == "Error: --resume and --fresh exclude each other"
    assert ground.remains() == []
