"""Who may connect to a job's pods."""

from dataclasses import replace

from tests.tandem_operator.jobs import SURROUNDINGS, plan_with


def test_only_pods_of_the_same_job_may_connect_and_to_every_port() -> None:
    policy = plan_with().network_policy

    assert policy.manifest()["spec"] == {
        "podSelector": {"matchLabels": {"tandem.dev/job": "math-8b"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"tandem.dev/job": "math-8b"}}}]}],
    }


def test_namespaces_that_monitor_reach_the_http_apis_of_engines_and_servers() -> None:
    around = replace(SURROUNDINGS, monitoring_namespaces=("tandem-system", "monitoring"))

    policy = plan_with(around=around, hybrid={"gpusPerPod": 2}, rollout={"elastic": {"gpusPerPod": 4}}).network_policy

    assert [rule.manifest() for rule in policy.spec.ingress[1:]] == [
        {
            "from": [
                {
                    "namespaceSelector": {
                        "matchExpressions": [
                            {
                                "key": "kubernetes.io/metadata.name",
                                "operator": "In",
                                "values": ["tandem-system", "monitoring"],
                            }
                        ]
                    }
                }
            ],
            "ports": [
                {"protocol": "TCP", "port": 8701},
                {"protocol": "TCP", "port": 8702},
                {"protocol": "TCP", "port": 8703},
                {"protocol": "TCP", "port": 8000, "endPort": 8003},
            ],
        }
    ]


def test_the_policy_selects_every_pod_of_the_job() -> None:
    plan = plan_with(rollout={"elastic": {"replicas": 1}})
    selected = plan.network_policy.spec.pod_selector.match_labels

    assert selected is not None
    assert [pod.metadata.name for pod in plan.pods if selected.items() <= pod.metadata.labels.items()] == [
        "math-8b-master",
        "math-8b-hybrid-0",
        "math-8b-rollout-0",
    ]
