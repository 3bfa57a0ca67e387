"""Kueue, Volcano and Kubernetes' own pod groups are real: they admit, they hold back, and they place gangs whole."""

import json
from collections.abc import Mapping
from time import sleep

import pytest

from tests.ground.access import until
from tests.ground.api_server import ApiServer
from tests.ground.fake_nodes import GPU_CLASS
from tests.ground.kueue import GPU_RESOURCE

pytestmark = pytest.mark.api_server

DECIDE_SECONDS = 60.0
QUIET_SECONDS = 5.0
CORES = "2"
KUEUE = "kueue.x-k8s.io/v1beta2"


def queues(name: str, resource: str = "cpu") -> list[dict[str, object]]:
    """Return a queue in the namespace `name` that has room for one workload."""
    resources = [{"name": resource, "nominalQuota": CORES}]
    groups = [{"coveredResources": [resource], "flavors": [{"name": name, "resources": resources}]}]
    return [
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {
            "apiVersion": KUEUE,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": {}, "resourceGroups": groups},
        },
        {
            "apiVersion": KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": "queue", "namespace": name},
            "spec": {"clusterQueue": name},
        },
    ]


def workload(name: str, namespace: str, **more: object) -> dict[str, object]:
    """Return a workload of one pod that takes the whole queue; `more` is for the pod's spec."""
    template = {"spec": pod_spec(**more)}
    return {
        "apiVersion": KUEUE,
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"queueName": "queue", "podSets": [{"name": "main", "count": 1, "template": template}]},
    }


def pod_spec(**more: object) -> dict[str, object]:
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": CORES}}}
    return {"containers": [container], "restartPolicy": "Never", **more}


def pod(name: str, namespace: str, annotations: Mapping[str, str] | None = None, **more: object) -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(**more)}


def condition(server: ApiServer, name: str, namespace: str, kind: str) -> str:
    """Return a workload's condition: `True`, `False`, or nothing where Kueue has not written it."""
    path = f".status.conditions[?(@.type=='{kind}')].status"
    return server.value("workloads.kueue.x-k8s.io", name, path, namespace)


def admitted(server: ApiServer, name: str, namespace: str) -> bool:
    return condition(server, name, namespace, "Admitted") == "True"


def node_of(server: ApiServer, name: str, namespace: str) -> str:
    return server.value("pod", name, ".spec.nodeName", namespace)


def finish(server: ApiServer, name: str, namespace: str) -> None:
    """Mark a workload finished, as the owner of its job does."""
    finished = {
        "type": "Finished",
        "status": "True",
        "reason": "Succeeded",
        "message": "done",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    kept = {"apiVersion": KUEUE, "kind": "Workload", "metadata": {"name": name, "namespace": namespace}}
    manifest = json.dumps({**kept, "status": {"conditions": [finished]}})
    arguments = ("--server-side", "--field-manager=owner", "--subresource=status", "-f", "-")
    server.kubectl("apply", *arguments, stdin=manifest)


def test_a_workload_within_the_quota_is_admitted(kueue: ApiServer, fake_namespace: str) -> None:
    kueue.apply(*queues(fake_namespace))

    kueue.apply(workload("first", fake_namespace))

    until(lambda: admitted(kueue, "first", fake_namespace), DECIDE_SECONDS, "the workload is admitted")
    flavor = ".status.admission.podSetAssignments[0].flavors.cpu"
    assert kueue.value("workloads.kueue.x-k8s.io", "first", flavor, fake_namespace) == fake_namespace


def test_a_workload_over_the_quota_waits_for_the_one_before_it(kueue: ApiServer, fake_namespace: str) -> None:
    kueue.apply(*queues(fake_namespace))
    kueue.apply(workload("first", fake_namespace))
    until(lambda: admitted(kueue, "first", fake_namespace), DECIDE_SECONDS, "the first is admitted")
    kueue.apply(workload("second", fake_namespace))
    until(
        lambda: condition(kueue, "second", fake_namespace, "QuotaReserved") == "False",
        DECIDE_SECONDS,
        "the second is told to wait",
    )

    finish(kueue, "first", fake_namespace)

    until(lambda: admitted(kueue, "second", fake_namespace), DECIDE_SECONDS, "the second is admitted")


def test_a_workload_that_is_made_inactive_is_evicted(kueue: ApiServer, fake_namespace: str) -> None:
    kueue.apply(*queues(fake_namespace))
    kueue.apply(workload("first", fake_namespace))
    until(lambda: admitted(kueue, "first", fake_namespace), DECIDE_SECONDS, "the workload is admitted")

    inactive = ("--type=merge", "-p", '{"spec":{"active":false}}')
    kueue.kubectl("patch", "workloads.kueue.x-k8s.io", "first", "-n", fake_namespace, *inactive)

    until(
        lambda: condition(kueue, "first", fake_namespace, "Evicted") == "True",
        DECIDE_SECONDS,
        "the workload is evicted",
    )


def test_a_workload_that_claims_devices_is_counted_in_gpus(kueue: ApiServer, fake_namespace: str) -> None:
    request = {"name": "gpu", "exactly": {"deviceClassName": GPU_CLASS, "count": 2}}
    kueue.apply(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "two", "namespace": fake_namespace},
            "spec": {"spec": {"devices": {"requests": [request]}}},
        },
        *queues(fake_namespace, GPU_RESOURCE),
    )
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two"}]
    container = {"name": "main", "image": "none", "resources": {"claims": [{"name": "gpus"}]}}

    kueue.apply(workload("first", fake_namespace, containers=[container], resourceClaims=claims))

    until(lambda: admitted(kueue, "first", fake_namespace), DECIDE_SECONDS, "the workload is admitted")
    usage = ".status.admission.podSetAssignments[0].resourceUsage"
    assert kueue.value("workloads.kueue.x-k8s.io", "first", usage, fake_namespace) == json.dumps(
        {GPU_RESOURCE: "2"}, separators=(",", ":")
    )


def test_volcano_places_a_gang_once_it_is_whole(volcano: ApiServer, fake_namespace: str) -> None:
    group = {"scheduling.k8s.io/group-name": "gang"}
    metadata = {"name": "gang", "namespace": fake_namespace}
    spec = {"minMember": 2, "queue": "default", "minResources": {"cpu": "4"}}
    volcano.apply(
        {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": metadata, "spec": spec}
    )
    volcano.apply(pod("one", fake_namespace, group, schedulerName="volcano"))
    sleep(QUIET_SECONDS)
    alone = node_of(volcano, "one", fake_namespace)

    volcano.apply(pod("two", fake_namespace, group, schedulerName="volcano"))

    until(lambda: node_of(volcano, "one", fake_namespace), DECIDE_SECONDS, "the first has a node")
    until(lambda: node_of(volcano, "two", fake_namespace), DECIDE_SECONDS, "the second has a node")
    assert alone == ""


def test_kubernetes_places_a_gang_once_it_is_whole(fake_nodes: ApiServer, fake_namespace: str) -> None:
    group = {"podGroupName": "gang"}
    metadata = {"name": "gang", "namespace": fake_namespace}
    spec = {"schedulingPolicy": {"gang": {"minCount": 2}}}
    fake_nodes.apply(
        {"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": metadata, "spec": spec}
    )
    fake_nodes.apply(pod("one", fake_namespace, schedulingGroup=group))
    sleep(QUIET_SECONDS)
    alone = node_of(fake_nodes, "one", fake_namespace)

    fake_nodes.apply(pod("two", fake_namespace, schedulingGroup=group))

    until(lambda: node_of(fake_nodes, "one", fake_namespace), DECIDE_SECONDS, "the first has a node")
    until(lambda: node_of(fake_nodes, "two", fake_namespace), DECIDE_SECONDS, "the second has a node")
    assert alone == ""
