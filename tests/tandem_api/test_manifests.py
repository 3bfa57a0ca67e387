"""`parse_job` on the manifests that an API server judges too."""

import pytest

from tandem_api.crd import Schema, custom_resource_definition
from tandem_api.invariant import VALIDATIONS
from tandem_api.problems import InvalidJob, parse_job
from tests.tandem_api.bad_fields import FIELDS, REPEATED, UNKNOWN
from tests.tandem_api.manifests import GOOD, RELATIONS, Bad, manifest
from tests.tandem_api.schemas import nodes, root

BAD = (*RELATIONS, *FIELDS, *UNKNOWN)


def messages(schema: Schema) -> set[str]:
    """Return the messages of the relations in a schema; those of updates are another matter."""
    validations = [validation for node in nodes(schema) for validation in node.get(VALIDATIONS, [])]
    return {validation["message"] for validation in validations if "oldSelf" not in validation["rule"]}


@pytest.mark.parametrize("patch", GOOD)
def test_a_good_manifest_is_a_job(patch: str) -> None:
    assert parse_job(manifest(patch)).metadata.name == "math-8b"


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.patch)
def test_a_bad_manifest_is_told_in_one_line(row: Bad) -> None:
    with pytest.raises(InvalidJob) as refusal:
        parse_job(manifest(row.patch))

    assert refusal.value.problems == (f"{row.field}: {row.text}",)


@pytest.mark.parametrize(("patch", "line", "_"), REPEATED)
def test_a_name_that_is_used_twice_is_told_in_one_line(patch: str, line: str, _: str) -> None:
    with pytest.raises(InvalidJob) as refusal:
        parse_job(manifest(patch))

    assert refusal.value.problems == (line,)


def test_there_are_enough_bad_manifests() -> None:
    assert len({row.patch for row in BAD}) >= 60


def test_every_relation_has_a_bad_manifest() -> None:
    broken = {row.words for row in RELATIONS}

    assert messages(root(custom_resource_definition())) - broken == set()


def test_every_message_names_the_problem_and_the_fix() -> None:
    told = messages(root(custom_resource_definition()))

    assert [message for message in told if message.count(";") != 1 or "\n" in message] == []
