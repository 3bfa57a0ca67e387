"""What a drain of nodes does to a running job, with Kubernetes' own controller of disruptions."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem_operator.plan.job import Plan, plan_job
from tests.ground.access import KubectlError, until
from tests.ground.api_server import ApiServer
from tests.ground.processes import start
from tests.ground.programs import locate
from tests.tandem_operator.jobs import SURROUNDINGS, job_with

pytestmark = pytest.mark.api_server

SETTLED_SECONDS = 60.0


@pytest.fixture
def disruptions(api_server: ApiServer, tmp_path: Path) -> Iterator[None]:
    """Kubernetes' controller of disruptions, which the shared ground leaves out."""
    program = locate("api-server")["kube-controller-manager"]
    flags = ("--secure-port=0", "--leader-elect=false", "--controllers=disruption-controller")
    running = start("disruptions", [program, f"--kubeconfig={api_server.kubeconfig}", *flags], tmp_path)
    yield
    running.kill()


def running_job(server: ApiServer, namespace: str) -> Plan:
    """Return the plan of a job that the API server knows, with its budget, and pods that say they are ready."""
    elastic = {"replicas": 1, "gpusPerPod": 1}
    job = job_with(namespace=namespace, hybrid={"gpu": {"sharing": "None"}}, rollout={"elastic": elastic})
    manifest = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    identity = {"name": job.metadata.name, "namespace": namespace}
    server.apply({**manifest, "apiVersion": job.api_version, "kind": job.kind, "metadata": identity})
    uid = server.value("rljob", job.metadata.name, ".metadata.uid", namespace)
    owner = job.metadata.model_copy(update={"uid": uid})
    plan = plan_job(job.model_copy(update={"metadata": owner}), SURROUNDINGS)
    server.apply(*(item.manifest() for item in plan.objects))
    set_ready(server, plan, True)
    return plan


def set_ready(server: ApiServer, plan: Plan, ready: bool) -> None:
    """Write into the status of all pods what a kubelet would."""
    condition = {"type": "Ready", "status": str(ready)}
    patch = json.dumps({"status": {"phase": "Running", "conditions": [condition]}})
    names = [f"pod/{pod.metadata.name}" for pod in plan.pods]
    namespace = plan.master.metadata.namespace
    server.kubectl("patch", *names, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def await_healthy(server: ApiServer, plan: Plan, num_pods: int) -> None:
    """Wait until the budget's status counts so many healthy pods."""
    budget = plan.disruption_budget.metadata

    def counted() -> bool:
        healthy = server.value("pdb", budget.name, ".status.currentHealthy", budget.namespace)
        return healthy == str(num_pods)

    until(counted, SETTLED_SECONDS, f"the budget counts {num_pods} healthy pods")


def evict(server: ApiServer, namespace: str, pod: str) -> None:
    """Ask for the eviction of a pod, as a drain does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    server.kubectl("create", f"--raw={path}", "-f", "-", stdin=json.dumps(eviction))


@pytest.mark.usefixtures("disruptions")
def test_a_drain_may_take_no_pod_of_a_running_job(api_server: ApiServer, api_namespace: str) -> None:
    plan = running_job(api_server, api_namespace)
    await_healthy(api_server, plan, 3)

    with pytest.raises(KubectlError, match="disruption budget"):
        evict(api_server, api_namespace, "math-8b-rollout-0")

    assert api_server.value("pdb", "math-8b", ".status.disruptionsAllowed", api_namespace) == "0"


@pytest.mark.usefixtures("disruptions")
def test_a_drain_may_take_pods_that_are_not_ready(api_server: ApiServer, api_namespace: str) -> None:
    plan = running_job(api_server, api_namespace)
    await_healthy(api_server, plan, 3)
    set_ready(api_server, plan, False)
    await_healthy(api_server, plan, 0)

    evict(api_server, api_namespace, "math-8b-hybrid-0")

    left = api_server.kubectl("get", "pods", "-n", api_namespace, "-o", "name")
    assert "math-8b-hybrid-0" not in left
