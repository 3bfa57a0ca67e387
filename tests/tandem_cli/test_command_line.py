"""The tandem command itself: its help, its exit codes, and `tandem validate`."""

import sys
from importlib.metadata import version

from tests.tandem_cli.ground import MACHINE, TANDEM, USER, Ground, Here, Outcome, refused


def test_it_is_installed_and_tells_its_version(ground: Ground) -> None:
    assert ground.execute(str(TANDEM), "--version") == Outcome(0, (f"tandem, version {version('tandem-rl')}",))


def test_its_start_does_not_wait_for_what_only_a_report_or_a_device_needs(ground: Ground) -> None:
    slow = (
        "import sys, tandem_cli.__main__; print(sorted({'matplotlib', 'torch', 'vllm', 'megatron'} & set(sys.modules)))"
    )

    assert ground.execute(sys.executable, "-c", slow).output == ("[]",)


def test_help_names_every_option_of_up(here: Here) -> None:
    text = "\n".join(here.tandem("up", "-h").output)

    options = ["--file", "--run-dir", "--resume", "--fresh", "--summary", "--logs", "--network", "--shared-memory"]
    assert [option for option in options if option not in text] == []
    assert "Exit codes: 0 completed, 1 the machine or the job failed, 2 something to correct" in " ".join(text.split())


def test_a_command_that_does_not_exist_is_the_users_mistake(here: Here) -> None:
    outcome = here.tandem("down")

    assert outcome.code == USER
    assert outcome.errors[-1] == "Error: No such command 'down'."


def test_validate_says_that_a_job_is_valid_and_starts_nothing(ground: Ground, here: Here) -> None:
    outcome = here.tandem("validate", "-f", ground.job)

    assert outcome == Outcome(0, (f"{ground.job}: reverse is valid",))
    assert ground.remains() == []


def test_validate_counts_the_problems(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"iterations": 0, "temperature": 0})

    assert here.tandem("validate", "-f", ground.job) == refused(
        USER,
        "spec.recipe.iterations: is 0; use at least 1",
        "spec.recipe.temperature: is 0; use more than 0",
        "2 problems, nothing was started",
    )


def test_validate_counts_one_problem_as_one(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"iterations": 0})

    assert here.tandem("validate", "-f", ground.job).errors[-1] == "1 problem, nothing was started"


def test_validate_looks_at_policy_and_data_too(ground: Ground, here: Here) -> None:
    ground.data.unlink()

    outcome = here.tandem("validate", "-f", ground.job)

    assert outcome.code == USER
    assert outcome.errors[0].startswith("spec.data.train[digits].path: ")


def test_validate_leaves_policy_and_data_out_where_they_are_elsewhere(ground: Ground, here: Here) -> None:
    ground.data.unlink()

    assert here.tandem("validate", "-f", ground.job, "--schema-only").code == 0


def test_a_run_folder_is_named_after_the_job_by_default(ground: Ground, here: Here) -> None:
    (ground.folder / "runs").write_text("in the way")

    outcome = here.tandem("up", "-f", ground.job)

    assert outcome == refused(
        MACHINE, "runs/reverse: cannot be written (Not a directory); choose another with --run-dir"
    )
