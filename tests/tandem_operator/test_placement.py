"""Where pods go, what they may displace, and which networks they are in."""

from typing import Any

from tests.tandem_operator.jobs import plan_with, pod_of

ALL: dict[str, Any] = {"hybrid": {"replicas": 1}, "rollout": {"elastic": {"replicas": 1}}}
ENGINES = ["math-8b-hybrid-0", "math-8b-rollout-0"]


def pods_with(field: str, **spec: Any) -> dict[str, Any]:
    """Return a field of the spec of those pods that have it, by the name of the pod."""
    manifests: list[Any] = [pod.manifest() for pod in plan_with(**{**ALL, **spec}).pods]
    return {item["metadata"]["name"]: item["spec"][field] for item in manifests if field in item["spec"]}


def test_all_pods_have_the_priority_of_the_job() -> None:
    assert pods_with("priorityClassName", scheduling={"priorityClassName": "high"}) == {
        "math-8b-master": "high",
        "math-8b-hybrid-0": "high",
        "math-8b-rollout-0": "high",
    }


def test_pods_with_engines_prefer_the_rack_of_the_others() -> None:
    affinity = {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "podAffinityTerm": {
                        "labelSelector": {
                            "matchLabels": {"tandem.dev/job": "math-8b"},
                            "matchExpressions": [
                                {"key": "tandem.dev/role", "operator": "In", "values": ["hybrid", "rollout"]}
                            ],
                        },
                        "topologyKey": "topology.kubernetes.io/rack",
                    },
                }
            ]
        }
    }

    found = pods_with("affinity", scheduling={"topologyKey": "topology.kubernetes.io/rack"})

    assert found == dict.fromkeys(ENGINES, affinity)


def test_an_affinity_of_the_user_joins_that_of_the_topology() -> None:
    node_affinity: dict[str, Any] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}

    found = pods_with(
        "affinity",
        scheduling={"topologyKey": "topology.kubernetes.io/rack"},
        podTemplate={"spec": {"affinity": {"nodeAffinity": node_affinity}}},
    )

    assert found["math-8b-master"] == {"nodeAffinity": node_affinity}
    assert set(found["math-8b-hybrid-0"]) == {"podAffinity", "nodeAffinity"}


def test_with_the_host_network_pods_with_engines_leave_the_pod_network_and_keep_the_cluster_s_dns() -> None:
    rdma = {"replicas": 1, "rdma": {"hostNetwork": True}}

    assert pods_with("hostNetwork", hybrid=rdma) == dict.fromkeys(ENGINES, True)
    assert pods_with("dnsPolicy", hybrid=rdma) == dict.fromkeys(ENGINES, "ClusterFirstWithHostNet")


def test_pods_with_engines_ask_for_the_secondary_network() -> None:
    plan = plan_with(hybrid={"rdma": {"network": "rdma/rail-0"}}, rollout=ALL["rollout"])

    asked = {
        pod.metadata.name: (pod.metadata.annotations or {}).get("k8s.v1.cni.cncf.io/networks") for pod in plan.pods
    }

    assert asked == {"math-8b-master": None, **dict.fromkeys(ENGINES, "rdma/rail-0")}


def test_a_job_that_asks_for_nothing_is_placed_anywhere() -> None:
    spec = pod_of(plan_with(), "math-8b-hybrid-0").spec.manifest()

    assert {"priorityClassName", "affinity", "hostNetwork", "dnsPolicy", "tolerations", "nodeSelector"} & set(
        spec
    ) == set()
