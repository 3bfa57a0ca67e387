"""The operator with the rights of operator/deploy/operator.yaml and no more: what it does, and what it may not do."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.operator_process import OperatorProcess
from tests.ground.access import KubectlError, until
from tests.ground.api_server import ApiServer
from tests.tandem_operator.rights import ACCOUNT, grant_rights, kubeconfig_with_rights

pytestmark = [pytest.mark.api_server, pytest.mark.etcd]

CHILDREN = {
    "ServiceAccount",
    "ConfigMap",
    "Secret",
    "Service",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ResourceClaimTemplate",
    "Pod",
}
JOB = {
    "apiVersion": "tandem.dev/v1alpha1",
    "kind": "RLJob",
    "metadata": {"name": "least"},
    "spec": {
        "policy": {"model": {"path": "/models/any"}},
        "data": {"train": [{"name": "any", "path": "/data/any.jsonl"}]},
        "rewards": [{"name": "exact", "builtin": "ExactMatch"}],
        "hybrid": {"replicas": 2, "gpusPerPod": 1},
        "ttlSecondsAfterFinished": 1,
        "failurePolicy": {"maxRestarts": 0},
    },
}
FORBIDDEN = (
    ("get", "secrets"),
    ("list", "secrets"),
    ("update", "pods"),
    ("patch", "pods"),
    ("create", "pods --subresource=exec"),
    ("delete", "services"),
    ("delete", "configmaps"),
    ("patch", "rljobs.tandem.dev"),
    ("create", "rljobs.tandem.dev"),
    ("list", "nodes"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
)


@pytest.fixture
def replica(api_server: ApiServer, api_namespace: str, etcd_endpoint: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator that has the rights of its ServiceAccount, for the namespace of the test."""
    kubeconfig, log = kubeconfig_with_rights(api_server, tmp_path), tmp_path / "operator.log"
    process = OperatorProcess(
        kubeconfig, etcd_endpoint, log, ("--lease-namespace=tandem-system", f"--namespace={api_namespace}")
    )
    process.start()
    yield process
    process.stop()


def kinds_of_children(api_server: ApiServer, namespace: str) -> set[str]:
    kinds = (
        "serviceaccounts,configmaps,secrets,services,networkpolicies,poddisruptionbudgets,resourceclaimtemplates,pods"
    )
    found = json.loads(api_server.kubectl("get", kinds, "-n", namespace, "-l", "tandem.dev/job=least", "-o", "json"))
    return {item["kind"] for item in found["items"]}


def give_nodes(api_server: ApiServer, namespace: str) -> None:
    """Say of each pod of the job what a scheduler would, which this control plane has not."""
    placed = json.dumps({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}})
    until(lambda: "least-master" in api_server.kubectl("get", "pods", "-n", namespace), 120, "there is no master")
    for name in ("least-hybrid-0", "least-hybrid-1", "least-master"):
        api_server.kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "-p", placed)


def events(api_server: ApiServer, namespace: str) -> str:
    return api_server.kubectl("get", "events", "-n", namespace)


def change(api_server: ApiServer, namespace: str, spec: dict[str, object]) -> None:
    patch = json.dumps({"spec": spec})
    api_server.kubectl("patch", "rlj", "least", "-n", namespace, "--type=merge", "-p", patch)


def is_suspended(api_server: ApiServer, namespace: str) -> bool:
    return api_server.value("rlj", "least", ".status.phase", namespace) == "Suspended"


def test_a_job_lives_and_goes_with_these_rights_alone(
    api_server: ApiServer, replica: OperatorProcess, api_namespace: str
) -> None:
    api_server.kubectl("apply", "--server-side", "-n", api_namespace, "-f", "-", stdin=json.dumps(JOB))
    give_nodes(api_server, api_namespace)
    until(lambda: kinds_of_children(api_server, api_namespace) == CHILDREN, 120, "the children are not there")
    api_server.kubectl("delete", "pod", "least-hybrid-0", "-n", api_namespace, "--grace-period=0", "--wait=false")

    until(lambda: "least" not in api_server.kubectl("get", "rlj", "-n", api_namespace), 120, "the job has not gone")
    log = replica.log.read_text()
    assert "orbidden" not in log
    assert "internal error" not in log


def test_somebody_elses_object_of_the_same_name_is_left_as_it_is(
    api_server: ApiServer, replica: OperatorProcess, api_namespace: str
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "least", "namespace": api_namespace},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    }
    api_server.apply(service)

    api_server.kubectl("apply", "--server-side", "-n", api_namespace, "-f", "-", stdin=json.dumps(JOB))
    give_nodes(api_server, api_namespace)
    until(lambda: "NameTaken" in events(api_server, api_namespace), 120, "nobody is told that the name is taken")

    assert json.loads(api_server.value("service", "least", ".spec.selector", api_namespace)) == {"app": "mine"}
    assert "Service least exists and belongs to somebody else" in events(api_server, api_namespace)


def test_devices_that_change_while_the_job_is_suspended_make_its_claim_template_anew(
    api_server: ApiServer, replica: OperatorProcess, api_namespace: str
) -> None:
    count = ".spec.spec.devices.requests[0].exactly.count"
    api_server.kubectl("apply", "--server-side", "-n", api_namespace, "-f", "-", stdin=json.dumps(JOB))
    until(lambda: "Pod" in kinds_of_children(api_server, api_namespace), 120, "there is no pod")
    assert api_server.value("resourceclaimtemplate", "least-hybrid-gpus", count, api_namespace) == "1"

    change(api_server, api_namespace, {"suspend": True})
    until(lambda: is_suspended(api_server, api_namespace), 120, "the job is not suspended")
    change(api_server, api_namespace, {"hybrid": {"gpusPerPod": 2}})
    change(api_server, api_namespace, {"suspend": False})

    def is_new() -> bool:
        return api_server.value("resourceclaimtemplate", "least-hybrid-gpus", count, api_namespace) == "2"

    until(is_new, 120, "the claim template is the old one")


@pytest.mark.parametrize(("verb", "resource"), FORBIDDEN)
def test_what_it_does_not_need_it_may_not_do(api_server: ApiServer, verb: str, resource: str) -> None:
    grant_rights(api_server)

    with pytest.raises(KubectlError):
        api_server.kubectl("auth", "can-i", verb, *resource.split(), f"--as={ACCOUNT}", "--all-namespaces", "--quiet")
