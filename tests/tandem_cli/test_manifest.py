"""Reading an RLJob file."""

from pathlib import Path

import pytest
import yaml

from tandem_cli.errors import UserError
from tandem_cli.manifest import read_job, resolve_paths
from tests.tandem_cli.ground import Ground, document
from tests.tandem_operator.jobs import job_with


def test_relative_paths_are_taken_from_the_folder_of_the_file(ground: Ground, tmp_path: Path) -> None:
    job = read_job(ground.job)

    assert job.spec.policy.model.path == str(ground.policy)
    assert [item.path for item in job.spec.data.train] == [str(ground.data)]


def test_absolute_paths_stay_as_they_are() -> None:
    job = resolve_paths(job_with(), Path("/somewhere/else"))

    assert job.spec.policy.model.path == "/models/tiny"
    assert job.spec.data.train[0].path == "/data/math.jsonl"


def test_paths_may_climb_out_of_the_folder() -> None:
    job = job_with(policy={"model": {"path": "../policies/tiny"}})

    assert resolve_paths(job, Path("/jobs/first")).spec.policy.model.path == "/jobs/policies/tiny"


def test_a_file_that_is_reached_by_a_link_finds_what_lies_beside_the_file_itself(
    ground: Ground, tmp_path: Path
) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(ground.job)

    assert read_job(link).spec.policy.model.path == str(ground.policy)


def test_nothing_else_of_the_job_changes(ground: Ground) -> None:
    job = read_job(ground.job)

    unresolved = document()["spec"]
    assert job.metadata.name == document()["metadata"]["name"]
    assert job.spec.policy.max_length_tokens == unresolved["policy"]["maxLengthTokens"]
    assert job.spec.data.train[0].name == "digits"
    assert job.spec.recipe.iterations == unresolved["recipe"]["iterations"]


def test_every_mistake_is_a_line_of_one_error(ground: Ground) -> None:
    wrong = document(recipe={"iterations": 0}, hybrid={"replicas": "two"})
    ground.job.write_text(yaml.safe_dump(wrong))

    with pytest.raises(UserError) as refusal:
        read_job(ground.job)

    assert [line.partition(":")[0] for line in refusal.value.lines] == [
        "spec.hybrid.replicas",
        "spec.recipe.iterations",
    ]


def test_a_file_that_is_not_utf_8_is_a_mistake_in_one_line(ground: Ground) -> None:
    ground.job.write_bytes(b"name: \xff\n")

    with pytest.raises(UserError, match=r"job\.yaml: is not YAML \(.*\); correct its syntax$"):
        read_job(ground.job)


def test_a_folder_in_place_of_a_file_is_a_mistake_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r": cannot be read \(Is a directory\); give the RLJob's file with -f$"):
        read_job(tmp_path)


@pytest.mark.parametrize(("given", "found"), [(None, "/jobs/first"), ("rewards", "/jobs/first/rewards")])
def test_a_reward_function_is_looked_for_beside_the_file(given: str | None, found: str) -> None:
    function = {"entryPoint": "mine:score", **({"folder": given} if given else {})}
    job = job_with(rewards=[{"name": "mine", "python": function}])

    (term,) = resolve_paths(job, Path("/jobs/first")).spec.rewards

    assert term.python is not None
    assert term.python.folder == found
