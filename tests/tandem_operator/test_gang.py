"""Pods that are placed all or none, and what is asked of a queue before they are made."""

from dataclasses import replace
from typing import Any

import pytest

from tandem_operator.plan.job import Plan
from tandem_operator.plan.surroundings import Admission, Assignment
from tests.tandem_operator.jobs import SURROUNDINGS, plan_with, pod_of

NATIVE, VOLCANO = "scheduling.k8s.io/v1alpha2", "scheduling.volcano.sh/v1beta1"
PODS: dict[str, Any] = {
    "hybrid": {
        "replicas": 2,
        "gpusPerPod": 1,
        "gpu": {"sharing": "None"},
        "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "2Gi"}},
    },
    "rollout": {"elastic": {"replicas": 1, "gpusPerPod": 1}, "resources": {"requests": {"cpu": "1"}}},
}


def gang(provider: str, api: str | None, **scheduling: Any) -> Plan:
    around = replace(SURROUNDINGS, gang_api=api)
    return plan_with(around=around, scheduling={"gang": provider, **scheduling}, **PODS)


def spec_of(plan: Plan, name: str) -> dict[str, Any]:
    spec: Any = pod_of(plan, name).manifest()["spec"]
    return dict(spec)


def test_a_native_gang_is_master_and_hybrid_pods_and_no_rollout_only_pod() -> None:
    plan = gang("Native", NATIVE)

    assert plan.pod_group is not None
    assert plan.pod_group.manifest()["spec"] == {"schedulingPolicy": {"gang": {"minCount": 3}}}
    assert [pod.metadata.name for pod in plan.pods if "schedulingGroup" in spec_of(plan, pod.metadata.name)] == [
        "math-8b-master",
        "math-8b-hybrid-0",
        "math-8b-hybrid-1",
    ]


def test_volcano_is_told_the_queue_the_priority_and_what_the_gang_requests_together() -> None:
    plan = gang("Volcano", VOLCANO, queueName="research", priorityClassName="high")

    assert plan.pod_group is not None
    assert plan.pod_group.manifest()["spec"] == {
        "minMember": 3,
        "minResources": {"cpu": "5", "memory": "4294967296"},
        "queue": "research",
        "priorityClassName": "high",
    }
    assert plan.workload is None


def test_volcano_places_the_members_and_knows_them_by_an_annotation() -> None:
    plan = gang("Volcano", VOLCANO)

    hybrid, rollout = pod_of(plan, "math-8b-hybrid-0"), pod_of(plan, "math-8b-rollout-0")
    assert hybrid.spec.scheduler_name == "volcano"
    assert (hybrid.metadata.annotations or {})["scheduling.k8s.io/group-name"] == "math-8b"
    assert rollout.spec.scheduler_name is None
    assert "scheduling.k8s.io/group-name" not in (rollout.metadata.annotations or {})


@pytest.mark.parametrize("provider", ["None", "Native", "Volcano"])
def test_without_a_served_pod_group_there_is_no_gang(provider: str) -> None:
    plan = gang(provider, None)

    assert plan.pod_group is None
    assert "schedulingGroup" not in spec_of(plan, "math-8b-hybrid-0")
    assert "schedulerName" not in spec_of(plan, "math-8b-hybrid-0")


def test_the_pod_group_is_there_before_the_pods() -> None:
    plan = gang("Native", NATIVE)

    assert [item.kind for item in plan.groundwork][-1] == "PodGroup"


def test_a_queue_is_asked_for_room_for_as_many_rollout_only_pods_as_there_may_be() -> None:
    elastic = {"replicas": 0, "maxReplicas": 4, "gpusPerPod": 1}
    plan = plan_with(scheduling={"queueName": "research"}, **{**PODS, "rollout": {"elastic": elastic}})

    assert plan.workload is not None
    sets: Any = plan.workload.spec["podSets"]
    assert [(item["name"], item["count"]) for item in sets] == [("master", 1), ("hybrid", 2), ("rollout", 4)]
    assert [item["template"]["spec"]["containers"][0]["name"] for item in sets] == ["master", "trainer", "rollout"]


def test_no_room_is_asked_for_rollout_only_pods_of_which_no_most_is_set() -> None:
    spec = {**PODS, "rollout": {"elastic": {"replicas": 0, "gpusPerPod": 1}}}

    plan = plan_with(scheduling={"queueName": "research"}, **spec)

    assert plan.workload is not None
    sets: Any = plan.workload.spec["podSets"]
    assert [item["name"] for item in sets] == ["master", "hybrid"]


def test_the_claims_of_rollout_only_pods_that_there_may_be_have_their_template() -> None:
    elastic = {"replicas": 0, "maxReplicas": 4, "gpusPerPod": 1}
    plan = plan_with(scheduling={"queueName": "research"}, rollout={"elastic": elastic})

    assert [item.metadata.name for item in plan.claim_templates] == ["math-8b-hybrid-gpus", "math-8b-rollout-gpus"]


def test_the_priority_of_a_job_is_its_priority_in_the_queue() -> None:
    scheduling = {"queueName": "research", "priorityClassName": "high"}
    plan = plan_with(around=replace(SURROUNDINGS, priority=7), scheduling=scheduling)

    assert plan.workload is not None
    assert plan.workload.spec["priority"] == 7
    assert plan.workload.spec["priorityClassRef"] == {
        "group": "scheduling.k8s.io",
        "kind": "PriorityClass",
        "name": "high",
    }


def test_what_is_asked_of_a_queue_depends_neither_on_its_answer_nor_on_the_attempt() -> None:
    admission = Admission("one", {"hybrid": Assignment((("pool", "spot"),))})
    scheduling = {"queueName": "research"}
    later = replace(SURROUNDINGS, admission=admission, attempt=3)

    assert plan_with(around=later, scheduling=scheduling).workload == plan_with(scheduling=scheduling).workload


def test_pods_go_to_the_nodes_that_the_queue_has_given_their_role() -> None:
    tolerations = ({"key": "spot", "operator": "Exists"},)
    admission = Admission("one", {"hybrid": Assignment((("pool", "spot"),), tolerations), "master": Assignment()})
    plan = plan_with(around=replace(SURROUNDINGS, admission=admission), scheduling={"queueName": "research"})

    assert pod_of(plan, "math-8b-hybrid-0").spec.node_selector == {"pool": "spot"}
    assert pod_of(plan, "math-8b-hybrid-0").spec.tolerations == tolerations
    assert pod_of(plan, "math-8b-master").spec.node_selector is None


def test_the_users_own_node_selector_is_kept_beside_that_of_the_queue() -> None:
    admission = Admission("one", {"hybrid": Assignment((("pool", "spot"),))})
    template = {"spec": {"nodeSelector": {"zone": "a"}}}
    plan = plan_with(around=replace(SURROUNDINGS, admission=admission), podTemplate=template)

    assert pod_of(plan, "math-8b-hybrid-0").spec.node_selector == {"pool": "spot", "zone": "a"}
