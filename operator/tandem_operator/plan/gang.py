"""Pods that are placed all or none: the PodGroup of a job, and what makes its pods members.

The gang is the master and the hybrid pods. Rollout-only pods come and go as they fit, so they are no part of it.
"""

from pydantic import JsonValue

from tandem_api.job import RLJob
from tandem_api.job.operations import GangProvider
from tandem_operator.plan import names
from tandem_operator.plan.names import PodRole
from tandem_operator.plan.objects import Pod, PodGroup, PodSpec, SchedulingGroup
from tandem_operator.plan.requests import total_requests
from tandem_operator.plan.surroundings import Surroundings

ANNOTATION_VOLCANO_GROUP = "scheduling.k8s.io/group-name"
"""By which Volcano finds the pods of a PodGroup."""
VOLCANO_SCHEDULER = "volcano"
GANG_ROLES: tuple[PodRole, ...] = ("master", "hybrid")


def in_gang(job: RLJob, surroundings: Surroundings, role: PodRole, spec: PodSpec) -> PodSpec:
    """Return the pod spec as that of a member of the job's gang; as it is where there is no gang."""
    if not _is_member(surroundings, role):
        return spec
    if job.spec.scheduling.gang is GangProvider.VOLCANO:
        return spec.model_copy(update={"scheduler_name": VOLCANO_SCHEDULER})
    group = SchedulingGroup(pod_group_name=names.pod_group(job))
    return spec.model_copy(update={"scheduling_group": group})


def gang_annotations(job: RLJob, surroundings: Surroundings, role: PodRole) -> dict[str, str]:
    """Return the annotation by which Volcano knows a member; empty where it is not asked."""
    if not _is_member(surroundings, role) or job.spec.scheduling.gang is not GangProvider.VOLCANO:
        return {}
    return {ANNOTATION_VOLCANO_GROUP: names.pod_group(job)}


def pod_group(job: RLJob, surroundings: Surroundings, pods: tuple[Pod, ...]) -> PodGroup | None:
    """Return the PodGroup of the job's pods; None where no gang is asked for, or where nobody would read it."""
    if surroundings.gang_api is None:
        return None
    num_members = 1 + job.spec.hybrid.replicas
    spec: dict[str, JsonValue]
    if job.spec.scheduling.gang is GangProvider.VOLCANO:
        spec = _of_volcano(job, num_members, pods[:num_members])
    else:
        spec = {"schedulingPolicy": {"gang": {"minCount": num_members}}}
    return PodGroup(api_version=surroundings.gang_api, metadata=names.metadata(job, names.pod_group(job)), spec=spec)


def _is_member(surroundings: Surroundings, role: PodRole) -> bool:
    return surroundings.gang_api is not None and role in GANG_ROLES


def _of_volcano(job: RLJob, num_members: int, members: tuple[Pod, ...]) -> dict[str, JsonValue]:
    """Return Volcano's terms. Without minResources it would let a gang in that its queue has no room for."""
    scheduling = job.spec.scheduling
    optional = {"queue": scheduling.queue_name, "priorityClassName": scheduling.priority_class_name}
    resources: dict[str, JsonValue] = dict(total_requests(pod.spec for pod in members))
    return {
        "minMember": num_members,
        **({"minResources": resources} if resources else {}),
        **{key: value for key, value in optional.items() if value is not None},
    }
