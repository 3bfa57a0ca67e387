"""Trainer and server share one claim of two GPUs, and a job whose claim cannot be satisfied yet waits and says so.

The tests run in order and share a job: it is applied while another pod holds all GPUs of the node.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from pydantic import JsonValue

from tests.cluster.cluster_jobs import ClusterJob, cluster_job
from tests.cluster.operator_process import OperatorProcess
from tests.e2e.jobs import iterations
from tests.ground.access import until
from tests.ground.pods import await_ready, container, pod
from tests.ground.real_node import RealNode

pytestmark = pytest.mark.node

NAMESPACE = "sharing"
HYBRID, MASTER = "reverse-digits-hybrid-0", "reverse-digits-master"
ITERATIONS = 15
WELL_SECONDS = 300.0
"""Time in which pods get nodes and engines start, on busy cores."""
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharing-state")


@pytest.fixture(scope="module")
def namespace(real_node: RealNode) -> Iterator[str]:
    """A namespace in which a pod holds all GPUs of the node."""
    real_node.kubectl("create", "namespace", NAMESPACE)
    real_node.apply(*_holder(real_node))
    await_ready(real_node, "holder", NAMESPACE)
    yield NAMESPACE
    real_node.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


@pytest.fixture(scope="module")
def job(real_node: RealNode, replica: OperatorProcess, namespace: str, toy: Path, state: Path) -> ClusterJob:
    manifest = cluster_job(real_node, namespace, toy, state, iterations=ITERATIONS, problemsPerIteration=16)
    hybrid, template = manifest["spec"]["hybrid"], manifest["spec"]["podTemplate"]
    hybrid |= {"gpusPerPod": 2, "gpu": {"sharing": "DRA", "deviceClassName": "gpu.nvidia.com"}}
    for patch in template["spec"]["containers"]:
        patch["env"].append({"name": "TANDEM_DEVICE", "value": "cpu"})
    real_node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    return ClusterJob(real_node, namespace)


def _holder(node: RealNode) -> tuple[JsonValue, JsonValue]:
    """Return a pod that holds all GPUs of the node, and the template of its claim."""
    request: JsonValue = {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "allocationMode": "All"}}
    template: JsonValue = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "all", "namespace": NAMESPACE},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    main: JsonValue = container(node, "main", resources={"claims": [{"name": "gpus"}]})
    claims: JsonValue = [{"name": "gpus", "resourceClaimTemplateName": "all"}]
    return template, pod(node, "holder", NAMESPACE, [main], resourceClaims=claims)


def test_a_claim_that_cannot_be_satisfied_is_told_in_the_schedulers_words(job: ClusterJob) -> None:
    until(
        lambda: job.condition("PodsScheduled")["reason"] == "Unschedulable",
        WELL_SECONDS,
        "the condition does not say that the claim cannot be satisfied",
    )

    condition = job.condition("PodsScheduled")
    assert condition["status"] == "False"
    assert condition["message"].startswith(f"{HYBRID}: 0/1 nodes are available: ")
    assert "cannot allocate all claims" in condition["message"]
    assert condition["message"] in job.messages("Unschedulable")
    assert job.status["restarts"] == 0


def test_the_job_goes_on_when_the_devices_are_free(job: ClusterJob, record_property: Record) -> None:
    freed_at = monotonic()
    job.node.kubectl("delete", "pod", "holder", "-n", NAMESPACE)

    until(lambda: job.condition("PodsScheduled")["status"] == "True", WELL_SECONDS, "the pods do not get a node")
    record_property("seconds_to_schedule", round(monotonic() - freed_at, 1))
    job.wait_for_iteration(1, WELL_SECONDS)
    record_property("seconds_to_recover", round(monotonic() - freed_at, 1))


def test_trainer_and_server_see_the_same_two_gpus_and_the_master_none(job: ClusterJob) -> None:
    trainer, server = (job.environment_of(HYBRID, name)["FAKE_GPUS"] for name in ("trainer", "rollout"))

    assert trainer.count("gpu-") == 2
    assert server == trainer
    assert "FAKE_GPUS" not in job.environment_of(MASTER, "master")


def test_the_job_with_a_shared_claim_completes(job: ClusterJob, state: Path) -> None:
    job.wait_for_phase("Completed", WELL_SECONDS)

    assert (job.status["iteration"], job.status["restarts"]) == (ITERATIONS, 0)
    assert [record.iteration for record in iterations(state)] == list(range(1, ITERATIONS + 1))
