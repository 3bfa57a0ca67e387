"""Jobs in real queues and gangs: Kueue admits and evicts them, Kubernetes' scheduler and Volcano place them whole.

The operator has the rights of operator/deploy/operator.yaml and no more.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operator_process import OperatorProcess
from tests.ground.access import until
from tests.ground.api_server import ApiServer
from tests.ground.fake_nodes import GPU_CLASS
from tests.tandem_operator.rights import kubeconfig_with_rights

pytestmark = [pytest.mark.api_server, pytest.mark.etcd]

SECONDS = 120.0
KUEUE = "kueue.x-k8s.io/v1beta2"
GPU = "nvidia.com/gpu"
NODE = "fake-1"
"""The node of the flavor that the queue has quota of."""


@pytest.fixture
def operator(
    fake_nodes: ApiServer, fake_namespace: str, etcd_endpoint: str, tmp_path: Path
) -> Iterator[OperatorProcess]:
    """An operator for the namespace of the test."""
    kubeconfig, log = kubeconfig_with_rights(fake_nodes, tmp_path), tmp_path / "operator.log"
    options = ("--lease-namespace=tandem-system", f"--namespace={fake_namespace}")
    process = OperatorProcess(kubeconfig, etcd_endpoint, log, options)
    process.start()
    yield process
    process.stop()
    assert "orbidden" not in log.read_text()
    assert "internal error" not in log.read_text()


class Jobs:
    """RLJobs of one namespace."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def apply(self, name: str, scheduling: Mapping[str, str], hybrid: Mapping[str, Any]) -> None:
        spec = {
            "policy": {"model": {"path": "/models/any"}},
            "data": {"train": [{"name": "any", "path": "/data/any.jsonl"}]},
            "rewards": [{"name": "exact", "builtin": "ExactMatch"}],
            "hybrid": {"replicas": 2, "gpusPerPod": 1, **hybrid},
            "scheduling": dict(scheduling),
        }
        document = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": name}, "spec": spec}
        manifest = json.dumps(document)
        self.server.kubectl("apply", "--server-side", "-n", self.namespace, "-f", "-", stdin=manifest)

    def patch(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        self.server.kubectl("patch", kind, name, "-n", self.namespace, "--type=merge", "-p", patch)

    def nodes(self, name: str) -> list[str]:
        """Return the node of each hybrid pod of a job; an empty word for one without."""
        selector = ("-l", f"tandem.dev/job={name},tandem.dev/role=hybrid")
        text = self.server.kubectl("get", "pods", "-n", self.namespace, *selector, "-o", "json")
        return [item["spec"].get("nodeName", "") for item in json.loads(text)["items"]]

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Return reason and message of a condition; empty ones before it is written."""
        found = json.loads(self.server.kubectl("get", "rlj", name, "-n", self.namespace, "-o", "json"))
        conditions = found.get("status", {}).get("conditions", [])
        return next(((item["reason"], item["message"]) for item in conditions if item["type"] == kind), ("", ""))

    def wait_for(self, name: str, kind: str, reason: str) -> str:
        """Return the message of a condition once it has this reason."""
        until(lambda: self.condition(name, kind)[0] == reason, SECONDS, f"{name}: {kind} does not become {reason}")
        return self.condition(name, kind)[1]

    def wait_for_nodes(self, name: str, nodes: list[str]) -> None:
        try:
            until(lambda: sorted(self.nodes(name)) == sorted(nodes), SECONDS, f"{name}: its pods are not on {nodes}")
        except TimeoutError as error:
            error.add_note(f"they are on {self.nodes(name)}; Admitted: {self.condition(name, 'Admitted')}")
            raise

    def workload(self, name: str, kind: str) -> str:
        """Return status and reason of a condition of a job's Workload, as `True/Admitted`."""
        path = f".status.conditions[?(@.type=='{kind}')]"
        status, reason = (
            self.server.value("workloads.kueue.x-k8s.io", f"rljob-{name}", f"{path}.{field}", self.namespace)
            for field in ("status", "reason")
        )
        return f"{status}/{reason}"

    def wait_for_workload(self, name: str, kind: str, said: str) -> None:
        until(lambda: self.workload(name, kind) == said, SECONDS, f"{name}: the queue's {kind} is not {said}")


@pytest.fixture
def jobs(fake_nodes: ApiServer, fake_namespace: str) -> Jobs:
    return Jobs(fake_nodes, fake_namespace)


def queues(namespace: str, **quota: str) -> list[dict[str, object]]:
    """Return queue `research` of a namespace, with quota on one node; a more urgent job displaces others."""
    resources = [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]
    groups = [{"coveredResources": list(quota), "flavors": [{"name": namespace, "resources": resources}]}]
    flavor = {"nodeLabels": {"kubernetes.io/hostname": NODE}, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    spec = {"namespaceSelector": {}, "resourceGroups": groups, "preemption": {"withinClusterQueue": "LowerPriority"}}
    return [
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": namespace}, "spec": flavor},
        {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec},
        {
            "apiVersion": KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": "research", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    ]


def urgent() -> dict[str, object]:
    metadata = {"name": "urgent"}
    return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata, "value": 1000}


def cpus(number: int) -> dict[str, Any]:
    """Return hybrid pods without devices that request cores."""
    return {"gpu": {"sharing": "None"}, "resources": {"requests": {"cpu": str(number)}}}


def occupant(namespace: str, node: str) -> dict[str, object]:
    """Return a pod that takes most of a node."""
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "7"}}}
    metadata = {"name": f"occupant-{node}", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "nodeName": node},
    }


@pytest.mark.usefixtures("operator", "kueue")
def test_an_urgent_job_displaces_another_which_goes_on_when_the_urgent_one_is_over(
    fake_nodes: ApiServer, jobs: Jobs
) -> None:
    devices = {"gpusPerPod": 2, "gpu": {"sharing": "DRA", "deviceClassName": GPU_CLASS}}
    fake_nodes.apply(urgent(), *queues(jobs.namespace, **{GPU: "4"}))

    jobs.apply("patient", {"queueName": "research"}, devices)
    jobs.wait_for_nodes("patient", [NODE] * 2)
    jobs.wait_for_workload("patient", "PodsReady", "True/Started")
    jobs.apply("urgent", {"queueName": "research", "priorityClassName": "urgent"}, devices)
    jobs.wait_for_nodes("urgent", [NODE] * 2)
    evicted = jobs.wait_for("patient", "Admitted", "Evicted")
    jobs.wait_for_nodes("patient", [])
    jobs.patch("rlj", "urgent", {"activeDeadlineSeconds": 1})

    jobs.wait_for_workload("urgent", "Finished", "True/Failed")
    jobs.wait_for_nodes("patient", [NODE] * 2)
    jobs.wait_for("patient", "Admitted", "Admitted")
    assert "Preempted" in evicted


@pytest.mark.usefixtures("operator", "kueue")
def test_a_job_over_the_quota_waits_with_the_words_of_the_queue_and_a_deactivated_one_makes_room(
    fake_nodes: ApiServer, jobs: Jobs
) -> None:
    fake_nodes.apply(*queues(jobs.namespace, cpu="2"))

    jobs.apply("first", {"queueName": "research"}, cpus(1))
    jobs.wait_for_nodes("first", [NODE] * 2)
    jobs.apply("second", {"queueName": "research"}, cpus(1))
    jobs.wait_for_workload("second", "QuotaReserved", "False/Pending")
    until(lambda: "cpu" in jobs.condition("second", "Admitted")[1], SECONDS, "the queue's words are not passed on")
    waiting = jobs.nodes("second")
    jobs.patch("workloads.kueue.x-k8s.io", "rljob-first", {"active": False})

    jobs.wait_for_nodes("second", [NODE] * 2)
    jobs.wait_for_nodes("first", [])
    jobs.wait_for_workload("first", "QuotaReserved", "False/Pending")
    assert waiting == []
    assert "Deactivated" in jobs.condition("first", "Admitted")[1]


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize(
    "scheduling", [{"gang": "Native"}, {"gang": "Volcano", "queueName": "default"}], ids=["native", "volcano"]
)
def test_a_gang_that_does_not_fit_gets_no_node_at_all_and_all_of_them_once_it_fits(
    request: pytest.FixtureRequest, fake_nodes: ApiServer, jobs: Jobs, scheduling: dict[str, str]
) -> None:
    if scheduling["gang"] == "Volcano":
        request.getfixturevalue("volcano")
    crowd = [occupant(jobs.namespace, f"fake-{number}") for number in range(1, 4)]
    fake_nodes.apply(*crowd)  # one node is left, for one of two pods

    jobs.apply("whole", scheduling, cpus(6))
    jobs.wait_for("whole", "PodsScheduled", "Unschedulable")
    held_back = jobs.nodes("whole")
    fake_nodes.kubectl("delete", "pod", "occupant-fake-1", "-n", jobs.namespace, "--grace-period=0", "--force")

    until(lambda: all(jobs.nodes("whole")), SECONDS, "the gang has no nodes")
    jobs.wait_for("whole", "PodsScheduled", "AllScheduled")
    assert held_back == ["", ""]
