"""What a job asks of Kueue: its pods as sets of equal ones, before any of them is made.

Kueue queues whatever a Workload object describes (https://kueue.sigs.k8s.io/docs/concepts/workload/). The pods
themselves carry no queue name, or it would queue each of them a second time.
"""

from dataclasses import replace

from pydantic import JsonValue

from tandem_api.job import RLJob
from tandem_api.job.operations import GangProvider
from tandem_api.job.pods import MAX_PODS
from tandem_operator.plan import names
from tandem_operator.plan.names import LABEL_ROLE, PodRole
from tandem_operator.plan.objects import Pod, PodSpec, Workload
from tandem_operator.plan.surroundings import Admission, Surroundings

PRIORITY_GROUP, PRIORITY_KIND = "scheduling.k8s.io", "PriorityClass"


def wants_queue(job: RLJob) -> bool:
    """Return whether the job waits for Kueue; a queue of Volcano is the business of its PodGroup."""
    scheduling = job.spec.scheduling
    return scheduling.queue_name is not None and scheduling.gang is not GangProvider.VOLCANO


def workload(job: RLJob, surroundings: Surroundings, pods: tuple[Pod, ...]) -> Workload:
    """Return the Workload that stands for the job in its queue, for a job that asks for one.

    `pods`: one of each role at least, as they are made where no queue has chosen nodes yet.
    """
    sets = [_pod_set(role, count, pods) for role, count in _counts(job)]
    spec: dict[str, JsonValue] = {
        "queueName": job.spec.scheduling.queue_name,
        "podSets": [item for item in sets if item is not None],
        "priority": surroundings.priority,
    }
    if job.spec.scheduling.priority_class_name is not None:
        name = job.spec.scheduling.priority_class_name
        spec["priorityClassRef"] = {"group": PRIORITY_GROUP, "kind": PRIORITY_KIND, "name": name}
    return Workload(metadata=names.metadata(job, names.workload(job)), spec=spec)


def assigned(surroundings: Surroundings, role: PodRole, spec: PodSpec) -> PodSpec:
    """Return the pod spec bound to the nodes that the queue has given its role."""
    assignment = surroundings.admission.assignments.get(role)
    if assignment is None:
        return spec
    tolerations = tuple(dict(item) for item in assignment.tolerations)
    return spec.model_copy(
        update={"node_selector": dict(assignment.node_labels) or None, "tolerations": tolerations or None}
    )


def not_admitted(surroundings: Surroundings) -> Surroundings:
    """Return the surroundings before the queue has said anything: what is asked of it does not depend on its answer."""
    return replace(surroundings, admission=Admission(), attempt=0)


def reserved(job: RLJob) -> RLJob:
    """Return the job with one rollout-only pod where room is reserved for such pods, though there may be none yet."""
    if not wants_queue(job) or _counts(job)[-1][1] == 0:
        return job
    rollout = job.spec.rollout
    elastic = rollout.elastic.model_copy(update={"replicas": 1})
    spec = job.spec.model_copy(update={"rollout": rollout.model_copy(update={"elastic": elastic})})
    return job.model_copy(update={"spec": spec})


def _counts(job: RLJob) -> tuple[tuple[PodRole, int], ...]:
    """Return the pods that quota is reserved for: of rollout-only pods the most there may ever be.

    What a Workload asks for cannot grow once it is admitted. A job whose maximum is not set has none
    (tandem_api.job.relations sees to it).
    """
    most = job.spec.rollout.elastic.max_replicas
    return (("master", 1), ("hybrid", job.spec.hybrid.replicas), ("rollout", most if most < MAX_PODS else 0))


def _pod_set(role: PodRole, count: int, pods: tuple[Pod, ...]) -> dict[str, JsonValue] | None:
    """Return the set of a role's pods; None where the job has none. Names and ordinals of single pods are left out."""
    first = next((pod for pod in pods if pod.metadata.labels[LABEL_ROLE] == role), None)
    if first is None or count == 0:
        return None
    template = first.spec.model_copy(update={"hostname": None, "scheduling_group": None}).manifest()
    return {"name": role, "count": count, "template": {"metadata": {}, "spec": template}}
