"""spec.podTemplate: the user's part of every pod."""

from typing import Any

import pytest

from tandem_operator.plan.errors import SpecError
from tandem_operator.plan.objects import Pod
from tests.tandem_operator.jobs import container_of, env_of, mounts_of, plan_with, pod_of


def hybrid_pod(template: dict[str, Any]) -> Pod:
    """Return the hybrid pod of a job with this template."""
    return pod_of(plan_with(podTemplate=template), "math-8b-hybrid-0")


def pod_spec(template_spec: dict[str, Any]) -> dict[str, Any]:
    """Return the pod spec of the hybrid pod, as the API server gets it, for a template with this spec."""
    spec: Any = hybrid_pod({"spec": template_spec}).manifest()["spec"]
    return dict(spec)


def test_an_empty_template_changes_nothing() -> None:
    assert hybrid_pod({}).spec == hybrid_pod({"metadata": {}, "spec": {}}).spec


def test_labels_and_annotations_join_those_of_the_planner() -> None:
    pod = hybrid_pod({"metadata": {"labels": {"team": "math"}, "annotations": {"note": "x"}}})

    assert pod.metadata.labels["team"] == "math"
    assert pod.metadata.labels["tandem.dev/job"] == "math-8b"
    assert pod.metadata.annotations is not None
    assert pod.metadata.annotations["note"] == "x"
    assert pod.metadata.annotations["tandem.dev/attempt"] == "0"


def test_a_field_that_the_planner_does_not_set_is_kept_in_every_pod() -> None:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]

    plan = plan_with(podTemplate={"spec": {"tolerations": tolerations, "priorityClassName": "high"}})

    assert [pod.manifest()["spec"]["tolerations"] for pod in plan.pods] == [tolerations] * 2  # type: ignore[index,call-overload]
    assert [pod.manifest()["spec"]["priorityClassName"] for pod in plan.pods] == ["high"] * 2  # type: ignore[index,call-overload]


def test_a_scalar_replaces_that_of_the_planner() -> None:
    assert hybrid_pod({"spec": {"terminationGracePeriodSeconds": 5}}).spec.termination_grace_period_seconds == 5


def test_null_removes_a_key() -> None:
    spec = pod_spec({"containers": [{"name": "trainer", "securityContext": {"seccompProfile": None}}]})

    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_containers_are_merged_by_name_and_keep_their_order() -> None:
    pod = hybrid_pod({"spec": {"containers": [{"name": "rollout", "image": "mine:1"}]}})

    assert [(item.name, item.image) for item in pod.spec.containers] == [
        ("trainer", "tandem/trainer:0.1"),
        ("rollout", "mine:1"),
    ]
    assert container_of(pod, "rollout").args == ("--role", "rollout")


def test_a_container_of_other_pods_is_merged_there_and_ignored_here() -> None:
    plan = plan_with(podTemplate={"spec": {"containers": [{"name": "master", "image": "mine:1"}]}})

    assert container_of(pod_of(plan, "math-8b-master"), "master").image == "mine:1"
    assert [item.name for item in pod_of(plan, "math-8b-hybrid-0").spec.containers] == ["trainer", "rollout"]


def test_variables_are_merged_by_name_and_a_value_takes_the_place_of_a_reference() -> None:
    env = [{"name": "HF_HOME", "value": "/hf"}, {"name": "POD_IP", "value": "10.0.0.1"}]

    pod = hybrid_pod({"spec": {"containers": [{"name": "trainer", "env": env}]}})
    trainer = container_of(pod, "trainer")

    assert env_of(trainer)["HF_HOME"] == "/hf"
    assert env_of(trainer)["POD_NAME"] == "metadata.name"
    assert [item.manifest() for item in trainer.env if item.name == "POD_IP"] == [
        {"name": "POD_IP", "value": "10.0.0.1"}
    ]


def test_a_volume_takes_another_source_without_keeping_the_first() -> None:
    source = {"persistentVolumeClaim": {"claimName": "disk"}}

    spec = pod_spec({"volumes": [{"name": "state", **source}]})

    assert [volume for volume in spec["volumes"] if volume["name"] == "state"] == [{"name": "state", **source}]


def test_a_volume_keeps_the_rest_of_the_source_that_is_named() -> None:
    spec = pod_spec({"volumes": [{"name": "shared", "emptyDir": {"sizeLimit": "5Gi"}}]})

    assert [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shared"] == [
        {"medium": "Memory", "sizeLimit": "5Gi"}
    ]


def test_a_new_volume_can_be_mounted_beside_the_others() -> None:
    pod = hybrid_pod(
        {
            "spec": {
                "volumes": [{"name": "models", "hostPath": {"path": "/models"}}],
                "containers": [{"name": "trainer", "volumeMounts": [{"name": "models", "mountPath": "/models"}]}],
            }
        }
    )

    assert mounts_of(container_of(pod, "trainer"))["/models"] == "models"
    assert mounts_of(container_of(pod, "trainer"))["/var/lib/tandem"] == "state"


def test_mounts_are_merged_by_path() -> None:
    mounts = [{"name": "shared", "mountPath": "/var/lib/tandem", "subPath": "state"}]

    spec = pod_spec({"containers": [{"name": "trainer", "volumeMounts": mounts}]})

    assert [item for item in spec["containers"][0]["volumeMounts"] if item["mountPath"] == "/var/lib/tandem"] == mounts


def test_any_other_list_is_replaced() -> None:
    capabilities = {"capabilities": {"drop": ["NET_RAW"]}}

    spec = pod_spec({"containers": [{"name": "trainer", "args": ["--role", "x"], "securityContext": capabilities}]})

    assert spec["containers"][0]["args"] == ["--role", "x"]
    assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["NET_RAW"]}


@pytest.mark.parametrize(
    ("template", "line"),
    [
        (
            {"containers": []},
            "spec.podTemplate.containers: is no field of a pod template here; use metadata or spec",
        ),
        (
            {"metadata": {"name": "x"}},
            "spec.podTemplate.metadata.name: is no field of a pod template here; use annotations or labels",
        ),
        (
            {"metadata": {"labels": {"tandem.dev/job": "x"}}},
            "spec.podTemplate.metadata.labels: sets tandem.dev/job, by which the job's pods are found; remove it",
        ),
        (
            {"metadata": {"annotations": {"tandem.dev/attempt": "7"}}},
            "spec.podTemplate.metadata.annotations: sets tandem.dev/attempt, by which the operator knows its pods; "
            "remove it",
        ),
        (
            {"spec": {"restartPolicy": "Never"}},
            "spec.podTemplate.spec.restartPolicy: is the operator's to decide; remove it",
        ),
        ({"spec": {"hostname": "x"}}, "spec.podTemplate.spec.hostname: is the operator's to decide; remove it"),
        ({"spec": []}, "spec.podTemplate.spec: is no mapping; write fields below it or remove it"),
        (
            {"spec": {"containers": {"name": "trainer"}}},
            "spec.podTemplate.spec.containers: is no list; begin each item with -",
        ),
        (
            {"spec": {"containers": [{"image": "x"}]}},
            "spec.podTemplate.spec.containers[0]: has no name; add name: items are merged by it",
        ),
        (
            {"spec": {"containers": [{"name": "vllm"}]}},
            "spec.podTemplate.spec.containers[vllm]: is no container of this job; use master or trainer or rollout",
        ),
        (
            {"spec": {"containers": [{"name": "rollout", "volumeMounts": [{"name": "shared"}]}]}},
            "spec.podTemplate.spec.containers[rollout].volumeMounts[0]: has no mountPath; "
            "add mountPath: items are merged by it",
        ),
        (
            {"spec": {"containers": [{"name": "rollout", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}},
            "spec.podTemplate.spec.containers[rollout].volumeMounts[/x]: names no volume of its pod (x); "
            "add it to spec.podTemplate.spec.volumes",
        ),
        (
            {"spec": {"containers": [{"name": "rollout", "resources": {"limits": {"cpu": 4}}}]}},
            "spec.podTemplate.spec.containers[rollout].resources.limits.cpu: is 4; use a valid string",
        ),
        (
            {"spec": {"hostNetwork": "perhaps"}},
            'spec.podTemplate.spec.hostNetwork: is "perhaps"; use a valid boolean, unable to interpret input',
        ),
    ],
)
def test_a_mistake_in_the_template_is_told_in_one_line(template: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_with(podTemplate=template)

    assert str(caught.value) == line
