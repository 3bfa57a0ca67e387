"""When a pod or another child counts as the one that is wanted: hashes over what matters."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import BaseModel, JsonValue

from tandem_api.job import RLJob
from tandem_api.job.spec import RLJobSpec
from tandem_operator.plan.job import plan_job
from tandem_operator.plan.revision import NOT_OF_PODS, applied_hash, spec_hash, stamped
from tests.tandem_operator.golden_plans import stored_job
from tests.tandem_operator.jobs import JOBS, SURROUNDINGS, job_with, plan_with

FieldPath = tuple[str, ...]

EVERY_SECTION = job_with(hybrid={"rdma": {}})
"""A job in which every optional section is there."""


def leaves(model: BaseModel, above: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the path of every field below a model that holds no fields itself, as a user writes it."""
    for name, field in type(model).model_fields.items():
        path = (*above, field.alias or name)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, path)
        else:
            yield path


def replaced(model: Any, path: FieldPath, value: object) -> Any:
    """Return the model with another value at a path, whatever the field's type allows."""
    step, *below = path
    name = next(name for name, field in type(model).model_fields.items() if (field.alias or name) == step)
    new = replaced(getattr(model, name), tuple(below), value) if below else value
    return model.model_copy(update={name: new})


def with_field(path: FieldPath) -> RLJob:
    """Return the job with another value in one field of its spec."""
    spec: RLJobSpec = replaced(EVERY_SECTION.spec, path, "another value")
    return EVERY_SECTION.model_copy(update={"spec": spec})


def is_free(path: FieldPath) -> bool:
    """Return whether a field may change while pods run."""
    return any(path[: len(free)] == free for free in NOT_OF_PODS)


FIELDS = sorted(leaves(EVERY_SECTION.spec))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("path", [path for path in FIELDS if not is_free(path)], ids=".".join)
def test_every_field_that_changes_pods_changes_the_hash(path: FieldPath) -> None:
    assert spec_hash(with_field(path)) != spec_hash(EVERY_SECTION)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("path", [path for path in FIELDS if is_free(path)], ids=".".join)
def test_a_field_that_leaves_pods_alone_leaves_the_hash_alone(path: FieldPath) -> None:
    assert spec_hash(with_field(path)) == spec_hash(EVERY_SECTION)


@pytest.mark.parametrize("free", NOT_OF_PODS, ids=".".join)
def test_every_field_that_is_said_to_leave_pods_alone_exists(free: FieldPath) -> None:
    assert [path for path in FIELDS if path[: len(free)] == free] != []


@settings(max_examples=60)
@given(job=JOBS)
def test_the_same_job_parsed_again_has_the_same_hash(job: RLJob) -> None:
    as_written = RLJob.model_validate(json.loads(job.model_dump_json(exclude_unset=True)))
    with_all_defaults = RLJob.model_validate(json.loads(job.model_dump_json()))
    with_least = RLJob.model_validate(json.loads(job.model_dump_json(exclude_defaults=True)))

    assert {spec_hash(as_written), spec_hash(with_all_defaults), spec_hash(with_least)} == {spec_hash(job)}


def test_the_hash_says_nothing_of_the_job_s_identity_and_status() -> None:
    job = job_with(name="a", uid="0c3a")
    later = job.model_copy(update={"metadata": job_with(name="b").metadata})

    assert spec_hash(later) == spec_hash(job)


def test_an_image_counts_though_it_is_the_default_because_the_default_changes_with_releases() -> None:
    stored = job_with(trainer={"image": "tandem/trainer:0.1"}, rollout={"image": "tandem/rollout:0.1"})
    next_trainer = job_with(trainer={"image": "tandem/trainer:0.2"})
    next_server = job_with(rollout={"image": "tandem/rollout:0.2"})

    assert spec_hash(stored) == spec_hash(job_with())
    assert len({spec_hash(stored), spec_hash(next_trainer), spec_hash(next_server)}) == 3


@pytest.mark.parametrize(
    ("name", "hash_of_its_pods"),
    [("cpu", "950fbd8d9110bbd7"), ("gpu", "2896a3642a0b0202")],
)
def test_a_job_that_the_api_server_stored_keeps_its_hash_so_that_an_upgrade_leaves_its_pods_alone(
    name: str, hash_of_its_pods: str
) -> None:
    """Never adapt these hashes: another one restarts every job of every cluster when its operator is upgraded."""
    assert spec_hash(stored_job(name)) == hash_of_its_pods


def test_pods_carry_the_hash_of_their_job_and_the_number_of_the_attempt() -> None:
    job = job_with()

    annotations = [pod.metadata.annotations for pod in plan_job(job, SURROUNDINGS).pods]

    assert annotations == [{"tandem.dev/spec-hash": spec_hash(job), "tandem.dev/attempt": "0"}] * 2


MANIFEST: dict[str, JsonValue] = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}


def test_a_stamped_manifest_has_the_hash_that_it_had_before() -> None:
    once = stamped(MANIFEST)

    assert once["metadata"] == {"name": "a", "annotations": {"tandem.dev/applied-hash": applied_hash(MANIFEST)}}
    assert applied_hash(once) == applied_hash(MANIFEST)
    assert stamped(once) == once


def test_a_stamp_leaves_other_annotations() -> None:
    manifest: dict[str, JsonValue] = {"metadata": {"annotations": {"note": "x"}}}

    assert stamped(manifest)["metadata"] == {
        "annotations": {"note": "x", "tandem.dev/applied-hash": applied_hash(manifest)}
    }


def test_the_order_of_keys_does_not_change_the_hash_of_a_manifest() -> None:
    assert applied_hash(dict(reversed(MANIFEST.items()))) == applied_hash(MANIFEST)


@pytest.mark.parametrize(
    "change",
    [{"data": {"x": "2"}}, {"data": {}}, {"metadata": {"name": "a", "annotations": {"note": "x"}}}],
    ids=["a value", "a key less", "an annotation"],
)
def test_whatever_else_differs_changes_the_hash_of_a_manifest(change: dict[str, JsonValue]) -> None:
    assert applied_hash({**MANIFEST, **change}) != applied_hash(MANIFEST)


def test_another_number_of_rollout_only_pods_changes_the_budget_and_the_configuration_and_no_pod() -> None:
    before = plan_with(rollout={"elastic": {"replicas": 1}})
    after = plan_with(rollout={"elastic": {"replicas": 2}})

    changed = [
        old.kind
        for old, new in zip(before.supporting, after.supporting, strict=True)
        if applied_hash(old.manifest()) != applied_hash(new.manifest())
    ]

    assert changed == ["ConfigMap", "PodDisruptionBudget"]
    assert after.pods[:3] == before.pods
