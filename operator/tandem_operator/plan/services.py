"""The Service that gives every pod of a job a name in DNS."""

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN, SERVER_PORT
from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.objects import Service, ServicePort, ServiceSpec


def headless_service(job: RLJob) -> Service:
    """Return the headless Service: `<pod>.<job>.<namespace>.svc` resolves from the moment a pod has an address.

    Pods that are not ready are named too: members find each other while they start.
    """
    return Service(
        metadata=names.metadata(job, names.service(job)),
        spec=ServiceSpec(
            selector=names.selector(job),
            ports=(
                ServicePort(name="engine-train", port=ENGINE_PORT_TRAIN),
                ServicePort(name="engine-rollout", port=ENGINE_PORT_ROLLOUT),
                ServicePort(name="server", port=SERVER_PORT),
            ),
            cluster_ip="None",
            publish_not_ready_addresses=True,
        ),
    )
