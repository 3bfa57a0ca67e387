"""Where the pods of a job go, what they may displace, and which networks they are in."""

from pydantic import JsonValue

from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.gang import in_gang
from tandem_operator.plan.kueue import assigned
from tandem_operator.plan.names import PodRole
from tandem_operator.plan.objects import LabelRequirement, LabelSelector, PodSpec
from tandem_operator.plan.surroundings import Surroundings

ANNOTATION_NETWORKS = "k8s.v1.cni.cncf.io/networks"
"""By which a pod asks for secondary networks (Kubernetes Network Plumbing Working Group, multi-network standard)."""
ROLES_WITH_ENGINES: tuple[PodRole, ...] = ("hybrid", "rollout")
"""Pods between which weights pass."""
MOST_WANTED = 100
"""Largest weight of a preference."""


def placed(job: RLJob, surroundings: Surroundings, role: PodRole, spec: PodSpec) -> PodSpec:
    """Return the pod spec with priority, gang and the nodes of its queue; with engines, neighbours and network too."""
    placement: dict[str, object] = {"priority_class_name": job.spec.scheduling.priority_class_name}
    if role in ROLES_WITH_ENGINES:
        placement |= {"affinity": _affinity(job)} | _host_network(job)
    return in_gang(job, surroundings, role, assigned(surroundings, role, spec.model_copy(update=placement)))


def network_annotations(job: RLJob, role: PodRole) -> dict[str, str]:
    """Return the annotation that gives a pod with engines a secondary network; empty where none is asked for."""
    rdma = job.spec.hybrid.rdma
    if rdma is None or rdma.network is None or role not in ROLES_WITH_ENGINES:
        return {}
    return {ANNOTATION_NETWORKS: rdma.network}


def _affinity(job: RLJob) -> dict[str, JsonValue] | None:
    """Return the preference for nodes near the job's other pods with engines; None where no topology is named.

    It is a preference: a job that does not fit into one rack still runs. The master needs no nearness.
    """
    if job.spec.scheduling.topology_key is None:
        return None
    neighbours = LabelSelector(
        match_labels=names.selector(job),
        match_expressions=(LabelRequirement(key=names.LABEL_ROLE, values=ROLES_WITH_ENGINES),),
    )
    term: dict[str, JsonValue] = {
        "labelSelector": neighbours.manifest(),
        "topologyKey": job.spec.scheduling.topology_key,
    }
    preference: dict[str, JsonValue] = {"weight": MOST_WANTED, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}


def _host_network(job: RLJob) -> dict[str, object]:
    """Return what puts a pod into its node's network, where DNS needs another policy; empty by default."""
    rdma = job.spec.hybrid.rdma
    if rdma is None or not rdma.host_network:
        return {}
    return {"host_network": True, "dns_policy": "ClusterFirstWithHostNet"}
