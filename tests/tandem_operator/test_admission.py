"""What a real API server says of the objects of a plan."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tandem_api.job import RLJob
from tandem_operator.plan.job import Plan, plan_job
from tandem_operator.plan.revision import spec_hash, stamped
from tests.ground.access import KubectlError
from tests.ground.api_server import ApiServer
from tests.tandem_operator.golden_plans import stored_job
from tests.tandem_operator.jobs import SURROUNDINGS, job_with

pytestmark = pytest.mark.api_server

EVERYWHERE: dict[str, Any] = {
    "metadata": {"labels": {"team": "math"}, "annotations": {"note": "x"}},
    "spec": {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "containers": [
            {"name": "trainer", "volumeMounts": [{"name": "models", "mountPath": "/models"}]},
            {"name": "master", "env": [{"name": "HF_HOME", "value": "/hf"}], "image": "mine:1"},
        ],
    },
}
JOBS_BY_KIND = {
    "least": job_with(),
    "on CPUs": stored_job("cpu"),
    "on GPUs": stored_job("gpu"),
    "VisibleAll": job_with(hybrid={"gpu": {"sharing": "VisibleAll"}}, rollout={"elastic": {"replicas": 2}}),
    "host network": job_with(hybrid={"rdma": {"hostNetwork": True}}, scheduling={"topologyKey": "example.com/rack"}),
    "longest name": job_with(name="m" * 50, rollout={"elastic": {"replicas": 1}}),
    "a template": job_with(podTemplate=EVERYWHERE, checkpoints={"claimName": "disk"}),
    "an account": job_with(podTemplate={"spec": {"serviceAccountName": "default"}}),
}
AROUND = replace(SURROUNDINGS, monitoring_namespaces=("tandem-system",), attempt=3)
HIGH = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000}


def applied_job(server: ApiServer, namespace: str, job: RLJob) -> RLJob:
    """Apply the job in the namespace and return it as the API server keeps it."""
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    identity = {"name": job.metadata.name, "namespace": namespace}
    document = {"apiVersion": job.api_version, "kind": job.kind, "metadata": identity, "spec": spec}
    server.apply(document)
    kept: dict[str, Any] = json.loads(server.kubectl("get", "rljob", job.metadata.name, "-n", namespace, "-o", "json"))
    return RLJob.model_validate(kept)


def dry_run(server: ApiServer, *manifests: object) -> str:
    """Apply manifests without effect; an unknown field or a warning is an error. Return what kubectl writes."""
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
    return server.kubectl("apply", *flags, "--field-manager=tandem-operator", "-f", "-", stdin=stdin)


def prepared_plan(server: ApiServer, namespace: str, job: RLJob) -> Plan:
    """Return the plan of the job as applied, with the account and the priority that admission asks for in place."""
    plan = plan_job(applied_job(server, namespace, job), AROUND)
    accounts = [] if plan.service_account is None else [stamped(plan.service_account.manifest())]
    server.apply(HIGH, *accounts)
    return plan


@pytest.mark.parametrize("kind", JOBS_BY_KIND)
def test_the_api_server_takes_every_object_of_a_plan_and_knows_every_field(
    api_server: ApiServer, api_namespace: str, kind: str
) -> None:
    plan = prepared_plan(api_server, api_namespace, JOBS_BY_KIND[kind])

    supporting = dry_run(api_server, *(stamped(item.manifest()) for item in plan.supporting))
    pods = dry_run(api_server, *(pod.manifest() for pod in plan.pods))

    assert len(supporting.splitlines()) == len(plan.supporting)
    assert len(pods.splitlines()) == len(plan.pods)


@pytest.mark.parametrize("kind", JOBS_BY_KIND)
def test_a_job_has_the_same_hash_before_and_after_the_api_server_has_written_its_defaults(
    api_server: ApiServer, api_namespace: str, kind: str
) -> None:
    job = JOBS_BY_KIND[kind]

    assert spec_hash(applied_job(api_server, api_namespace, job)) == spec_hash(job)


def enforce_baseline(server: ApiServer, namespace: str) -> None:
    """Refuse pods in the namespace that are above the level baseline of the Pod Security Standards."""
    server.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")


@pytest.mark.parametrize("kind", ["least", "on CPUs", "VisibleAll"])
def test_pods_pass_the_pod_security_level_baseline(api_server: ApiServer, api_namespace: str, kind: str) -> None:
    enforce_baseline(api_server, api_namespace)
    plan = prepared_plan(api_server, api_namespace, JOBS_BY_KIND[kind])

    pods = dry_run(api_server, *(pod.manifest() for pod in plan.pods))

    assert len(pods.splitlines()) == len(plan.pods)


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [("on GPUs", ["IPC_LOCK"]), ("host network", ["IPC_LOCK", "host namespaces", "hostPort"])],
    ids=["rdma", "rdma in the host's network"],
)
def test_rdma_is_above_baseline_for_locked_memory_and_the_host_network_alone(
    api_server: ApiServer, api_namespace: str, kind: str, reasons: list[str]
) -> None:
    enforce_baseline(api_server, api_namespace)
    plan = prepared_plan(api_server, api_namespace, JOBS_BY_KIND[kind])

    master = dry_run(api_server, plan.master.manifest())
    with pytest.raises(KubectlError) as caught:
        dry_run(api_server, plan.members[0].manifest())

    assert len(master.splitlines()) == 1
    assert [reason for reason in reasons if reason not in str(caught.value)] == []
