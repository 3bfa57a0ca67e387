"""Who may connect to the pods of a job."""

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN, METRICS_PORT, SERVER_PORT
from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.objects import (
    IngressRule,
    LabelRequirement,
    LabelSelector,
    NetworkPeer,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkPort,
)
from tandem_operator.plan.surroundings import Surroundings

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server puts on every namespace: its own name."""


def network_policy(job: RLJob, surroundings: Surroundings) -> NetworkPolicy:
    """Return the policy by which the job's pods are reached by each other, on every port, and by nobody else.

    Namespaces that monitor reach the HTTP APIs. What pods connect to is not restricted: they need DNS, the registry
    and whatever the user's rewards call. Peers are told by labels, so both address families are covered. A pod on its
    host's network, or on a second one, is outside of what any NetworkPolicy governs: the token still guards its APIs.
    """
    own = LabelSelector(match_labels=names.selector(job))
    return NetworkPolicy(
        metadata=names.metadata(job, names.network_policy(job)),
        spec=NetworkPolicySpec(
            pod_selector=own,
            policy_types=("Ingress",),
            ingress=(IngressRule(from_=(NetworkPeer(pod_selector=own),)), *_monitoring(job, surroundings)),
        ),
    )


def _monitoring(job: RLJob, surroundings: Surroundings) -> tuple[IngressRule, ...]:
    """Return the rule that opens the HTTP APIs to the namespaces that monitor; none where there are none."""
    if not surroundings.monitoring_namespaces:
        return ()
    named = LabelRequirement(key=NAMESPACE_NAME, values=surroundings.monitoring_namespaces)
    peer = NetworkPeer(namespace_selector=LabelSelector(match_expressions=(named,)))
    return (IngressRule(from_=(peer,), ports=_http_ports(job)),)


def _http_ports(job: RLJob) -> tuple[NetworkPort, ...]:
    """Return the ports of both engines, of the master's metrics, and of as many servers as a pod can hold."""
    num_devices = max(job.spec.hybrid.gpus_per_pod, job.spec.rollout.elastic.gpus_per_pod)
    num_servers = num_devices // job.spec.rollout.parallelism.num_devices
    return (
        NetworkPort(port=ENGINE_PORT_TRAIN),
        NetworkPort(port=ENGINE_PORT_ROLLOUT),
        NetworkPort(port=METRICS_PORT),
        NetworkPort(port=SERVER_PORT, end_port=SERVER_PORT + max(num_servers, 1) - 1),
    )
