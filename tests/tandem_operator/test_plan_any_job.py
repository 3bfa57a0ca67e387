"""What holds of the plan of any valid job."""

import json
import re

from hypothesis import given, settings

from tandem_api.engine import JobConfig
from tandem_api.job import RLJob
from tandem_operator.plan.job import Plan, plan_job
from tandem_operator.plan.objects import Pod
from tests.tandem_operator.jobs import JOBS, SURROUNDINGS, container_of, mounts_of

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def object_names(plan: Plan) -> list[str]:
    """Return the names of all objects of a plan."""
    return [item.metadata.name for item in plan.objects]


def unknown_mounts(pod: Pod) -> list[str]:
    """Return the mounts of a pod that name none of its volumes."""
    volumes = {volume.name for volume in pod.spec.volumes}
    return [mount.name for item in pod.spec.containers for mount in item.volume_mounts if mount.name not in volumes]


@settings(max_examples=80, deadline=None)
@given(job=JOBS)
def test_any_valid_job_plans_into_well_formed_objects(job: RLJob) -> None:
    plan = plan_job(job, SURROUNDINGS)

    assert [name for name in object_names(plan) if not DNS_LABEL.fullmatch(name)] == []
    assert len({(type(pod), pod.metadata.name) for pod in plan.pods}) == len(plan.pods)
    assert [mount for pod in plan.pods for mount in unknown_mounts(pod)] == []
    assert JobConfig.model_validate_json(plan.config_map.data["config.json"]).spec == job.spec


@settings(max_examples=40, deadline=None)
@given(job=JOBS)
def test_equal_input_gives_an_equal_plan(job: RLJob) -> None:
    again = RLJob.model_validate_json(job.model_dump_json())

    first, second = plan_job(job, SURROUNDINGS), plan_job(again, SURROUNDINGS)

    assert first == second
    assert [json.dumps(pod.manifest()) for pod in first.pods] == [json.dumps(pod.manifest()) for pod in second.pods]


@settings(max_examples=40, deadline=None)
@given(job=JOBS)
def test_trainer_and_server_of_a_hybrid_pod_share_one_volume_in_memory(job: RLJob) -> None:
    plan = plan_job(job, SURROUNDINGS)
    hybrid = [pod for pod in plan.pods if pod.metadata.labels["tandem.dev/role"] == "hybrid"]
    mounts = [mounts_of(container_of(pod, name)) for pod in hybrid for name in ("trainer", "rollout")]
    shared = [volume.empty_dir for pod in hybrid for volume in pod.spec.volumes if volume.name == "shared"]

    assert len(hybrid) == job.spec.hybrid.replicas
    assert {mount["/var/run/tandem/shared"] for mount in mounts} == {"shared"}
    assert {volume.medium for volume in shared if volume is not None} == {"Memory"}


@settings(max_examples=40, deadline=None)
@given(job=JOBS)
def test_the_token_is_in_the_secret_and_nowhere_else(job: RLJob) -> None:
    plan = plan_job(job, SURROUNDINGS)
    others = [item for item in plan.objects if item is not plan.secret]

    assert plan.secret.string_data == {"token": SURROUNDINGS.token}
    assert [item.metadata.name for item in others if SURROUNDINGS.token in json.dumps(item.manifest())] == []
    assert SURROUNDINGS.token not in repr((plan, SURROUNDINGS))
