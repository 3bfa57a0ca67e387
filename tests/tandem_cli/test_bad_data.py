"""Every bad input of problems, trained on or held out: one line that names file or field and the fix, nothing left."""

from typing import Any

from tests.tandem_cli.ground import NAME, PROBLEMS, USER, Ground, Here, Outcome, refused


def test_a_malformed_line_of_data_is_named_by_file_and_number(ground: Ground) -> None:
    ground.data.write_text('{"prompt": "12=", "answer": "21"}\n{"prompt": "12="}\n')

    outcome = ground.up()

    (line,) = outcome.errors
    assert line.startswith(f"{ground.data}:2: answer: Field required")
    assert (outcome.code, ground.remains()) == (USER, [])


def test_missing_data_and_a_missing_model_are_two_lines(ground: Ground, here: Here) -> None:
    ground.data.unlink()
    (ground.policy / "tokenizer.json").unlink()

    outcome = here.up()

    policy, data = outcome.errors
    assert policy.startswith(f"spec.policy.model.path: {ground.policy}/tokenizer.json is missing; ")
    assert data.startswith(f"spec.data.train[digits].path: {ground.data} cannot be read (No such file or directory)")
    assert (outcome.code, ground.remains()) == (USER, [])


def held_out(name: str = "test", path: str = "test.jsonl", **fields: object) -> dict[str, Any]:
    """A section `data` with one held-out set."""
    return {
        "train": [{"name": "digits", "path": "data.jsonl"}],
        "evaluation": [{"name": name, "path": path, **fields}],
    }


def test_a_missing_file_of_held_out_problems_is_named(ground: Ground, here: Here) -> None:
    ground.write_job(data=held_out())

    outcome = here.up()

    path = ground.folder / "test.jsonl"
    assert outcome == refused(
        USER, f"spec.data.evaluation[test].path: {path} cannot be read (No such file or directory)"
    )
    assert ground.remains() == []


def test_an_empty_file_of_held_out_problems_is_named(ground: Ground, here: Here) -> None:
    path = ground.folder / "test.jsonl"
    path.write_text("\n")
    ground.write_job(data=held_out())

    outcome = here.up()

    assert outcome == refused(USER, f"{path}: the file holds no problem; write one JSON object a line")
    assert ground.remains() == []


def test_too_many_malformed_lines_of_held_out_problems_are_counted_and_the_first_is_named(
    ground: Ground, here: Here
) -> None:
    path = ground.folder / "test.jsonl"
    path.write_text('{"prompt": "12=", "answer": "21"}\n[]\n{"prompt": 3, "answer": "21"}\n')
    ground.write_job(data=held_out(maxMalformedShare=0.5))

    outcome = here.tandem("validate", "-f", ground.job)

    first, count = outcome.errors
    assert first.startswith(f"{path}:2: Input should be an object (2 of 3 lines malformed, and ")
    assert first.endswith("spec.data.evaluation[test].maxMalformedShare is 0.5)")
    assert (outcome.code, count) == (USER, "1 problem, nothing was started")


def test_held_out_prompts_that_are_trained_on_are_warned_of_with_their_number(ground: Ground, here: Here) -> None:
    (ground.folder / "test.jsonl").write_text("\n".join(PROBLEMS) + '\n{"prompt": "7=", "answer": "7"}\n')
    ground.write_job(data=held_out())

    outcome = here.tandem("validate", "-f", ground.job)

    assert outcome.code == 0
    assert outcome.errors == (
        "warning: spec.data.evaluation[test]: 2 of 3 prompts are in spec.data.train too, so they are not held out; "
        "take them out of one of the two",
    )


def test_keeping_the_best_wants_held_out_problems(ground: Ground, here: Here) -> None:
    ground.write_job(checkpoints={"keepBest": {}})

    outcome = here.up()

    assert outcome == refused(
        USER,
        "spec.checkpoints.keepBest: wants held-out problems to tell what is best; add a set to data.evaluation, or "
        "remove keepBest",
    )


def test_keeping_the_best_by_a_set_that_is_none_is_named(ground: Ground, here: Here) -> None:
    ground.write_job(data=held_out(), checkpoints={"keepBest": {"evaluation": "other"}})

    outcome = here.up()

    assert outcome == refused(
        USER, "spec.checkpoints.keepBest.evaluation: names no set of data.evaluation; use the name of one"
    )


def test_many_samples_at_temperature_0_are_one_sample(ground: Ground, here: Here) -> None:
    ground.write_job(data=held_out(temperature=0, samplesPerProblem=4))

    outcome = here.up()

    assert outcome == refused(
        USER,
        "spec.data.evaluation[0].samplesPerProblem: samples would all be the same at temperature 0; use 1, or a "
        "temperature above 0",
    )


def test_fewer_problems_than_an_iteration_draws_are_counted(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"iterations": 2, "problemsPerIteration": 3})

    outcome = here.up()

    assert outcome == refused(
        USER, "spec.recipe.problemsPerIteration: is 3, but spec.data.train holds 2 problems; use 2 or fewer"
    )
    assert ground.remains() == []


def test_malformed_lines_up_to_a_share_are_left_out_and_the_rest_is_a_valid_job(ground: Ground, here: Here) -> None:
    ground.data.write_text("\n".join([*PROBLEMS, "{", '{"prompt": "7=", "answer": "7"}']) + "\n")
    ground.write_job(data={"train": [{"name": "digits", "path": "data.jsonl", "maxMalformedShare": 0.25}]})

    outcome = here.tandem("validate", "-f", ground.job)

    assert outcome == Outcome(0, (f"{ground.job}: {NAME} is valid",))
