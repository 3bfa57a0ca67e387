"""One long job on a real node that is hurt in every way, and goes on each time from its newest checkpoint.

The tests run in order and share the job: each waits until it is well, hurts it, and waits until it is well again.
`make test` runs a slice of them; those marked `campaign` are run by `make campaign`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.cluster.cluster_jobs import ClusterJob, cluster_job
from tests.cluster.operator_process import OperatorProcess
from tests.ground.access import until
from tests.ground.real_node import RealNode
from tests.tandem_checkpoint.etcd_process import EtcdProcess

pytestmark = pytest.mark.node

WELL_SECONDS = 600.0
NAMESPACE = "healing"
HYBRID, MASTER = "reverse-digits-hybrid-0", "reverse-digits-master"
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def job(
    real_node: RealNode, replica: OperatorProcess, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterJob]:
    real_node.kubectl("create", "namespace", NAMESPACE)
    state = tmp_path_factory.mktemp("healing-state")
    manifest = cluster_job(real_node, NAMESPACE, toy, state, iterations=500, problemsPerIteration=8)
    manifest["spec"]["checkpoints"]["everyIterations"] = 2
    manifest["spec"]["failurePolicy"] = {"maxRestarts": 30}
    real_node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    yield ClusterJob(real_node, NAMESPACE)
    real_node.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


def wait_until_well(job: ClusterJob) -> int:
    """Wait until the loop has made two iterations in the present attempt, and return its iteration."""
    until(lambda: job.condition("EnginesReady")["status"] == "True", WELL_SECONDS, "the engines are not ready")
    begun = int(job.status["iteration"])
    job.wait_for_iteration(begun + 2, WELL_SECONDS)
    return begun + 2


def wait_until_healed(job: ClusterJob, attempt: int, hurt_at: float, record: Record) -> None:
    """Wait until a later attempt makes iterations again, and record how long that took."""
    until(lambda: job.status["attempt"] > attempt, WELL_SECONDS, "the failure has not been noticed")
    wait_until_well(job)
    record("seconds_to_recover", round(monotonic() - hurt_at, 1))
    assert job.status["phase"] in ("Infer", "Train")


@pytest.mark.parametrize("container", ["trainer", pytest.param("rollout", marks=pytest.mark.campaign)])
def test_a_killed_engine_rejoins_the_running_job(job: ClusterJob, container: str, record_property: Record) -> None:
    iteration, before = wait_until_well(job), job.status
    master, killed = job.container_id(MASTER, "master"), job.container_id(HYBRID, container)

    hurt_at = monotonic()
    os.kill(job.node.process_of(killed), signal.SIGKILL)
    until(lambda: job.status["restarts"] > before["restarts"], WELL_SECONDS, "the failure has not been noticed")
    until(lambda: job.container_id(HYBRID, container) != killed, WELL_SECONDS, "the container is not started again")
    job.wait_for_iteration(int(job.status["iteration"]) + 2, WELL_SECONDS)
    record_property("seconds_to_recover", round(monotonic() - hurt_at, 1))

    assert job.status["iteration"] > iteration
    assert job.status["attempt"] == before["attempt"]
    assert job.container_id(MASTER, "master") == master


@pytest.mark.campaign
def test_a_killed_master_costs_no_more_than_the_work_since_the_last_checkpoint(
    job: ClusterJob, record_property: Record
) -> None:
    iteration, attempt = wait_until_well(job), job.status["attempt"]

    hurt_at = monotonic()
    os.kill(job.node.process_of(job.container_id(MASTER, "master")), signal.SIGKILL)

    wait_until_healed(job, attempt, hurt_at, record_property)
    assert job.status["iteration"] >= iteration - 2


@pytest.mark.campaign
def test_a_deleted_pod_comes_back(job: ClusterJob, record_property: Record) -> None:
    wait_until_well(job)
    attempt = job.status["attempt"]

    hurt_at = monotonic()
    job.node.kubectl("delete", "pod", HYBRID, "-n", NAMESPACE, "--wait=false")

    wait_until_healed(job, attempt, hurt_at, record_property)
    assert "Restarting" in job.events()


@pytest.mark.campaign
def test_an_operator_that_is_killed_leaves_the_job_alone_and_another_goes_on(
    job: ClusterJob, replica: OperatorProcess
) -> None:
    wait_until_well(job)
    before, attempt = {name: pod["metadata"]["uid"] for name, pod in job.pods().items()}, job.status["attempt"]

    replica.kill()
    replica.start()
    wait_until_well(job)

    assert {name: pod["metadata"]["uid"] for name, pod in job.pods().items()} == before
    assert job.status["attempt"] == attempt


@pytest.mark.campaign
def test_two_replicas_do_the_work_of_one(job: ClusterJob, replica: OperatorProcess, tmp_path: Path) -> None:
    wait_until_well(job)
    restarts = job.status["restarts"]
    second = OperatorProcess(replica.kubeconfig, replica.etcd, tmp_path / "second.log", ("--log-format=text",))

    second.start()
    second.wait_for_log("waits for the lease", 30)
    assert replica.stop() == 0
    second.wait_for_log(" leads", 30)
    wait_until_well(job)
    assert second.stop() == 0
    replica.start()
    wait_until_well(job)

    assert job.status["restarts"] == restarts


@pytest.mark.campaign
def test_a_registry_that_is_away_for_half_a_minute_does_not_end_the_job(
    job: ClusterJob, jobs_etcd: EtcdProcess, record_property: Record
) -> None:
    wait_until_well(job)

    hurt_at = monotonic()
    jobs_etcd.kill()
    sleep(30)
    jobs_etcd.start()

    wait_until_well(job)
    record_property("seconds_to_recover", round(monotonic() - hurt_at, 1))


@pytest.mark.campaign
def test_a_cordoned_node_is_named_and_the_job_goes_on_when_it_is_free_again(job: ClusterJob) -> None:
    wait_until_well(job)
    job.node.kubectl("cordon", _node_name(job))
    try:
        job.node.kubectl("delete", "pod", HYBRID, "-n", NAMESPACE, "--wait=false")
        until(
            lambda: job.condition("PodsScheduled")["reason"] == "Unschedulable",
            WELL_SECONDS,
            "the condition does not say that no node takes the pods",
        )
        assert "unschedulable" in job.condition("PodsScheduled")["message"]
    finally:
        job.node.kubectl("uncordon", _node_name(job))
    wait_until_well(job)


def test_a_suspended_job_keeps_its_state_and_completes_with_fewer_iterations(job: ClusterJob) -> None:
    wait_until_well(job)

    job.node.kubectl("patch", "rlj", job.name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    job.wait_for_phase("Suspended", 120)
    reached = int(job.status["iteration"])
    wanted = json.dumps({"spec": {"recipe": {"iterations": reached + 4}}})
    assert job.pods() == {}
    job.node.kubectl("patch", "rlj", job.name, "-n", NAMESPACE, "--type=merge", "-p", wanted)
    job.node.kubectl("patch", "rlj", job.name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    job.wait_for_phase("Completed", WELL_SECONDS)

    assert job.status["iteration"] == reached + 4


def _node_name(job: ClusterJob) -> str:
    return job.node.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
