"""The objects of a job: what the containers rely on."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tandem_api.engine import JobConfig
from tandem_operator.plan.job import Surroundings
from tests.tandem_operator.jobs import SURROUNDINGS, container_of, env_of, mounts_of, plan_with, pod_of

CPU: dict[str, Any] = {"gpusPerPod": 2, "gpu": {"sharing": "None"}}


def hybrid_containers(**spec: Any) -> tuple[Any, Any]:
    """Return trainer and server of the first hybrid pod."""
    pod = pod_of(plan_with(**spec), "math-8b-hybrid-0")
    return container_of(pod, "trainer"), container_of(pod, "rollout")


def test_pods_come_as_master_then_hybrid_then_rollout_only() -> None:
    plan = plan_with(hybrid={"replicas": 2}, rollout={"elastic": {"replicas": 2}})

    assert [pod.metadata.name for pod in plan.pods] == [
        "math-8b-master",
        "math-8b-hybrid-0",
        "math-8b-hybrid-1",
        "math-8b-rollout-0",
        "math-8b-rollout-1",
    ]


def test_a_model_may_span_pods_whose_trainers_are_told_of_each_other() -> None:
    plan = plan_with(
        hybrid={"replicas": 2, "gpusPerPod": 8}, trainer={"parallelism": {"tensor": 8, "pipeline": 2, "expert": 8}}
    )
    config = JobConfig.model_validate_json(plan.config_map.data["config.json"])

    assert [pod.metadata.name for pod in plan.pods[1:]] == ["math-8b-hybrid-0", "math-8b-hybrid-1"]
    assert config.hybrid_pods == ("math-8b-hybrid-0", "math-8b-hybrid-1")
    assert config.spec.hybrid.num_ranks == 16


def test_the_longest_name_with_the_most_pods_stays_a_dns_label() -> None:
    plan = plan_with(name="m" * 50, hybrid={"replicas": 1024}, rollout={"elastic": {"replicas": 1024}})

    assert len(plan.pods) == 2049
    assert max(len(pod.metadata.name) for pod in plan.pods) == 63


def test_every_pod_carries_the_labels_it_is_found_by() -> None:
    pod = pod_of(plan_with(), "math-8b-hybrid-0")

    assert pod.metadata.namespace == "research"
    assert pod.metadata.labels == {
        "app.kubernetes.io/name": "tandem",
        "app.kubernetes.io/instance": "math-8b",
        "app.kubernetes.io/component": "hybrid",
        "tandem.dev/job": "math-8b",
        "tandem.dev/role": "hybrid",
    }


def test_the_headless_service_names_pods_before_they_are_ready() -> None:
    plan = plan_with()
    (service,) = plan.services

    assert service.metadata.name == "math-8b"
    assert service.manifest()["spec"] == {
        "selector": {"tandem.dev/job": "math-8b"},
        "ports": [
            {"name": "engine-train", "port": 8701},
            {"name": "engine-rollout", "port": 8702},
            {"name": "server", "port": 8000},
        ],
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
    }
    assert {(pod.spec.hostname, pod.spec.subdomain) for pod in plan.pods} == {
        (pod.metadata.name, "math-8b") for pod in plan.pods
    }


def test_the_master_runs_one_command_once_because_the_operator_decides_about_its_end() -> None:
    pod = pod_of(plan_with(), "math-8b-master")
    master = container_of(pod, "master")

    assert len(pod.spec.containers) == 1
    assert (master.command, master.args) == (("tandem-master",), ())
    assert pod.spec.restart_policy == "Never"


def test_a_hybrid_pod_runs_one_engine_for_each_role_and_restarts_always() -> None:
    pod = pod_of(plan_with(), "math-8b-hybrid-0")

    assert [(item.name, item.command, item.args) for item in pod.spec.containers] == [
        ("trainer", ("tandem-engine",), ("--role", "train")),
        ("rollout", ("tandem-engine",), ("--role", "rollout")),
    ]
    assert pod.spec.restart_policy == "Always"


def test_a_rollout_only_pod_runs_the_server_alone() -> None:
    pod = pod_of(plan_with(rollout={"elastic": {"replicas": 1}}), "math-8b-rollout-0")

    assert [item.name for item in pod.spec.containers] == ["rollout"]
    assert [volume.name for volume in pod.spec.volumes] == ["config", "secret", "shared"]


def test_every_container_is_told_where_it_is_and_where_the_registry_is() -> None:
    trainer, _ = hybrid_containers()

    assert env_of(trainer) == {
        "TANDEM_CONFIG": "/etc/tandem/config/config.json",
        "TANDEM_TOKEN_FILE": "/etc/tandem/secret/token",
        "TANDEM_ETCD": "etcd-0:2379,etcd-1:2379",
        "TANDEM_ATTEMPT": "0",
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
        "TANDEM_SHARED": "/var/run/tandem/shared",
        "TANDEM_STATE": "/var/lib/tandem",
    }


def test_state_is_mounted_in_the_master_and_in_trainers_only() -> None:
    plan = plan_with()
    pod = pod_of(plan, "math-8b-hybrid-0")
    state = {"/etc/tandem/config": "config", "/etc/tandem/secret": "secret", "/var/lib/tandem": "state"}
    shared = {"/etc/tandem/config": "config", "/etc/tandem/secret": "secret", "/var/run/tandem/shared": "shared"}

    assert mounts_of(container_of(pod_of(plan, "math-8b-master"), "master")) == state
    assert mounts_of(container_of(pod, "trainer")) == state | shared
    assert mounts_of(container_of(pod, "rollout")) == shared
    assert "TANDEM_STATE" not in env_of(container_of(pod, "rollout"))


def test_configuration_and_token_cannot_be_written_by_a_container() -> None:
    trainer, _ = hybrid_containers()

    assert {mount.name for mount in trainer.volume_mounts if mount.read_only} == {"config", "secret"}


def test_the_config_map_holds_the_job_as_every_container_reads_it() -> None:
    plan = plan_with(hybrid={**CPU, "replicas": 2}, rollout={"elastic": {"replicas": 1}})

    config = JobConfig.model_validate_json(plan.config_map.data["config.json"])

    assert (config.namespace, config.name, config.device) == ("research", "math-8b", "cpu")
    assert config.hybrid_pods == ("math-8b-hybrid-0", "math-8b-hybrid-1")
    assert config.rollout_pods == ("math-8b-rollout-0",)


@pytest.mark.parametrize(("sharing", "device"), [("DRA", "cuda"), ("VisibleAll", "cuda"), ("None", "cpu")])
def test_the_device_follows_from_how_gpus_are_shared(sharing: str, device: str) -> None:
    plan = plan_with(hybrid={"gpu": {"sharing": sharing}})

    assert JobConfig.model_validate_json(plan.config_map.data["config.json"]).device == device


@pytest.mark.parametrize(
    ("hybrid", "size"), [({}, "1073741824"), ({"sharedMemory": "64Gi"}, "64Gi")], ids=["worked out", "given"]
)
def test_the_shared_volume_has_the_given_size_or_the_one_worked_out(hybrid: dict[str, Any], size: str) -> None:
    pod = pod_of(plan_with(hybrid=hybrid), "math-8b-hybrid-0")

    (shared,) = [volume for volume in pod.spec.volumes if volume.name == "shared"]

    assert shared.manifest() == {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": size}}


def test_the_shared_volume_is_bounded_by_the_pod_where_nobody_knows_its_size() -> None:
    plan = plan_with(around=Surroundings(etcd_endpoints=("etcd:2379",), token="s3cret"))
    pod = pod_of(plan, "math-8b-hybrid-0")

    (shared,) = [volume for volume in pod.spec.volumes if volume.name == "shared"]

    assert shared.manifest() == {"name": "shared", "emptyDir": {"medium": "Memory"}}


@pytest.mark.parametrize(
    ("given", "image"), [(None, "tandem/master:0.1"), ("mirror/master:7", "mirror/master:7")], ids=["absent", "given"]
)
def test_the_image_of_the_master_is_that_of_the_release_or_the_given_one(given: str | None, image: str) -> None:
    plan = plan_with(around=replace(SURROUNDINGS, master_image=given))

    assert container_of(pod_of(plan, "math-8b-master"), "master").image == image


def test_the_config_map_says_only_what_differs_from_defaults_so_that_older_images_can_read_it() -> None:
    config = json.loads(plan_with(hybrid={"gpusPerPod": 2}).config_map.data["config.json"])

    assert set(config["spec"]) == {"policy", "data", "rewards", "hybrid"}
    assert config["spec"]["hybrid"] == {"gpusPerPod": 2}


@pytest.mark.parametrize(
    ("checkpoints", "source"),
    [({}, {"emptyDir": {"medium": ""}}), ({"claimName": "disk"}, {"persistentVolumeClaim": {"claimName": "disk"}})],
    ids=["absent", "given"],
)
def test_state_lives_on_the_claim_where_one_is_given(checkpoints: dict[str, Any], source: dict[str, Any]) -> None:
    pod = pod_of(plan_with(checkpoints=checkpoints), "math-8b-master")

    (state,) = [volume for volume in pod.spec.volumes if volume.name == "state"]

    assert state.manifest() == {"name": "state", **source}


def test_ports_are_named_and_there_is_one_a_server() -> None:
    trainer, rollout = hybrid_containers(hybrid={"gpusPerPod": 3})

    assert [(port.name, port.container_port) for port in trainer.ports] == [
        ("engine-train", 8701),
        ("rendezvous", 29500),
    ]
    assert [(port.name, port.container_port) for port in rollout.ports] == [
        ("engine-rollout", 8702),
        ("server", 8000),
        ("server-1", 8001),
        ("server-2", 8002),
    ]


def test_servers_that_split_the_policy_are_fewer() -> None:
    plan = plan_with(
        hybrid={"gpusPerPod": 4}, rollout={"parallelism": {"tensor": 2}, "elastic": {"replicas": 1, "gpusPerPod": 2}}
    )

    hybrid = container_of(pod_of(plan, "math-8b-hybrid-0"), "rollout")
    rollout_only = container_of(pod_of(plan, "math-8b-rollout-0"), "rollout")

    assert [port.container_port for port in hybrid.ports] == [8702, 8000, 8001]
    assert [port.container_port for port in rollout_only.ports] == [8702, 8000]


def test_containers_have_the_least_privileges_and_pods_no_account() -> None:
    plan = plan_with(rollout={"elastic": {"replicas": 1}})

    contexts = [item.security_context for pod in plan.pods for item in pod.spec.containers]

    assert contexts == [
        {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    ] * len(contexts)
    assert {pod.spec.automount_service_account_token for pod in plan.pods} == {False}


def test_with_dra_both_containers_use_the_one_claim_of_their_pod() -> None:
    plan = plan_with(hybrid={"gpusPerPod": 8, "gpu": {"selectors": ["device.driver == 'gpu.nvidia.com'"]}})
    pod = pod_of(plan, "math-8b-hybrid-0")
    (template,) = plan.claim_templates

    assert template.manifest()["spec"] == {
        "spec": {
            "devices": {
                "requests": [
                    {
                        "name": "gpu",
                        "exactly": {
                            "deviceClassName": "gpu.nvidia.com",
                            "allocationMode": "ExactCount",
                            "count": 8,
                            "selectors": [{"cel": {"expression": "device.driver == 'gpu.nvidia.com'"}}],
                        },
                    }
                ]
            }
        }
    }
    assert pod.spec.resource_claims is not None
    assert [claim.manifest() for claim in pod.spec.resource_claims] == [
        {"name": "gpus", "resourceClaimTemplateName": template.metadata.name}
    ]
    assert [item.resources and item.resources.claims for item in pod.spec.containers] == [({"name": "gpus"},)] * 2


def test_with_dra_rollout_only_pods_claim_their_own_number_of_devices() -> None:
    plan = plan_with(rollout={"elastic": {"replicas": 1, "gpusPerPod": 4}})
    pod = pod_of(plan, "math-8b-rollout-0")

    assert [template.metadata.name for template in plan.claim_templates] == [
        "math-8b-hybrid-gpus",
        "math-8b-rollout-gpus",
    ]
    assert plan.claim_templates[1].spec["spec"]["devices"]["requests"][0]["exactly"]["count"] == 4
    assert pod.spec.resource_claims is not None
    assert pod.spec.resource_claims[0].resource_claim_template_name == "math-8b-rollout-gpus"


def test_with_visible_all_only_the_trainer_requests_and_the_server_sees_all() -> None:
    plan = plan_with(hybrid={"gpusPerPod": 8, "gpu": {"sharing": "VisibleAll"}})
    pod = pod_of(plan, "math-8b-hybrid-0")
    trainer, rollout = pod.spec.containers

    assert plan.claim_templates == ()
    assert pod.spec.resource_claims is None
    assert trainer.resources is not None
    assert trainer.resources.limits == {"nvidia.com/gpu": "8"}
    assert "NVIDIA_VISIBLE_DEVICES" not in env_of(trainer)
    assert rollout.resources is None
    assert env_of(rollout)["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_with_visible_all_a_rollout_only_pod_requests_its_devices_itself() -> None:
    plan = plan_with(hybrid={"gpu": {"sharing": "VisibleAll"}}, rollout={"elastic": {"replicas": 1, "gpusPerPod": 4}})
    server = container_of(pod_of(plan, "math-8b-rollout-0"), "rollout")

    assert server.resources is not None
    assert server.resources.limits == {"nvidia.com/gpu": "4"}
    assert "NVIDIA_VISIBLE_DEVICES" not in env_of(server)


def test_without_gpus_no_container_asks_for_devices() -> None:
    plan = plan_with(hybrid=CPU)

    assert plan.claim_templates == ()
    assert [item.resources for pod in plan.pods for item in pod.spec.containers] == [None, None, None]


def test_rdma_adapters_are_limits_of_both_containers_which_may_lock_memory() -> None:
    trainer, rollout = hybrid_containers(hybrid={"rdma": {"resourceName": "rdma/hca", "count": 4}})

    assert [item.resources.limits for item in (trainer, rollout)] == [{"rdma/hca": "4"}] * 2
    assert [item.security_context["capabilities"] for item in (trainer, rollout)] == [
        {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    ] * 2


def test_requests_and_limits_of_the_user_are_kept_in_their_container() -> None:
    trainer, rollout = hybrid_containers(
        hybrid={**CPU, "resources": {"requests": {"cpu": "64"}}}, rollout={"resources": {"limits": {"memory": "8Gi"}}}
    )

    assert trainer.resources.manifest() == {"requests": {"cpu": "64"}}
    assert rollout.resources.manifest() == {"limits": {"memory": "8Gi"}}


def test_a_job_known_to_the_api_server_owns_its_objects() -> None:
    plan = plan_with(uid="0c3a")
    owner = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "RLJob",
        "name": "math-8b",
        "uid": "0c3a",
        "controller": True,
        "blockOwnerDeletion": True,
    }

    assert [item.metadata.manifest()["ownerReferences"] for item in plan.objects] == [[owner]] * len(plan.objects)


def test_objects_come_in_the_order_in_which_they_are_applied_and_of_the_pods_the_master_last() -> None:
    plan = plan_with(rollout={"elastic": {"replicas": 1}})

    assert [(item.kind, item.metadata.name) for item in plan.objects] == [
        ("ServiceAccount", "math-8b-pods"),
        ("ConfigMap", "math-8b-config"),
        ("Secret", "math-8b-token"),
        ("NetworkPolicy", "math-8b"),
        ("ResourceClaimTemplate", "math-8b-hybrid-gpus"),
        ("ResourceClaimTemplate", "math-8b-rollout-gpus"),
        ("Pod", "math-8b-hybrid-0"),
        ("Pod", "math-8b-rollout-0"),
        ("Pod", "math-8b-master"),
        ("Service", "math-8b"),
        ("PodDisruptionBudget", "math-8b"),
    ]


def test_a_job_from_a_file_owns_nothing() -> None:
    assert plan_with().config_map.metadata.owner_references is None
