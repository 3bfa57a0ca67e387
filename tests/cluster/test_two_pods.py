"""Two hybrid pods train one policy while a third, which only serves, joins and leaves.

The tests run in order and share a job.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from tandem_api.engine import SERVER_PORT
from tandem_api.history import SwitchRecord
from tests.cluster.cluster_jobs import ClusterJob, cluster_job
from tests.cluster.operator_process import OperatorProcess
from tests.e2e.jobs import iterations, records
from tests.ground.access import until
from tests.ground.real_node import RealNode

pytestmark = pytest.mark.node

NAMESPACE, NAME = "two-pods", "two-pods"
ELASTIC = f"{NAME}-rollout-0"
ITERATIONS = 14
PROBLEMS = 96
"""Enough for Infer phases in which a pod that nobody waits for comes to serve."""
WELL_SECONDS = 300.0
"""Time in which pods start and switch, on busy cores."""
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two-pods-state")


@pytest.fixture(scope="module")
def job(real_node: RealNode, replica: OperatorProcess, toy: Path, state: Path) -> Iterator[ClusterJob]:
    real_node.kubectl("create", "namespace", NAMESPACE)
    manifest = cluster_job(
        real_node, NAMESPACE, toy, state, "02-two-pods", iterations=ITERATIONS, problemsPerIteration=PROBLEMS
    )
    spec = manifest["spec"]
    spec["hybrid"]["gpusPerPod"] = 1
    spec["rollout"]["elastic"] = {"replicas": 0, "minReplicas": 0, "maxReplicas": 1, "gpusPerPod": 1}
    real_node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    yield ClusterJob(real_node, NAMESPACE, NAME)
    real_node.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


def num_answers(job: ClusterJob, address: str) -> int:
    """Return how many requests the master says that the first server of a pod has answered."""
    counts = re.findall(rf"http://{re.escape(address)}:{SERVER_PORT} (\d+)", job.log_of(f"{NAME}-master", "master"))
    return sum(int(count) for count in counts)


def scale(job: ClusterJob, replicas: int) -> None:
    job.node.kubectl("scale", "rlj", NAME, "-n", NAMESPACE, f"--replicas={replicas}")


def test_two_pods_switch_together(job: ClusterJob, state: Path) -> None:
    job.wait_for_iteration(2, WELL_SECONDS)

    switches = [record for record in records(state) if isinstance(record, SwitchRecord)]

    assert {(stage.pod, stage.role) for stage in switches[-1].stages if stage.role != "master"} == {
        (f"{NAME}-hybrid-0", "train"),
        (f"{NAME}-hybrid-0", "rollout"),
        (f"{NAME}-hybrid-1", "train"),
        (f"{NAME}-hybrid-1", "rollout"),
    }


def test_a_pod_that_is_added_while_the_job_runs_comes_to_serve(job: ClusterJob, record_property: Record) -> None:
    before = {name: pod["metadata"]["uid"] for name, pod in job.pods().items()}

    added_at = monotonic()
    scale(job, 1)
    until(lambda: job.status["elastic"]["ready"] == 1, WELL_SECONDS, "the status does not count the pod")
    pods = job.pods()
    until(
        lambda: num_answers(job, pods[ELASTIC]["status"]["podIP"]) > 0,
        WELL_SECONDS,
        "the pod does not come to answer requests",
    )
    record_property("seconds_to_serve", round(monotonic() - added_at, 1))

    assert {name: pods[name]["metadata"]["uid"] for name in before} == before
    assert set(pods) - set(before) == {ELASTIC}
    assert re.search(rf"fetched \d+ bytes in \d+ ranges from .*{NAME}-hybrid-", job.log_of(ELASTIC, "rollout"))


def test_the_pod_goes_again_and_the_job_completes_with_the_reward_rising(
    job: ClusterJob, state: Path, record_property: Record
) -> None:
    removed_at = monotonic()
    scale(job, 0)
    until(lambda: ELASTIC not in job.pods(), WELL_SECONDS, "the pod does not go")
    record_property("seconds_to_go", round(monotonic() - removed_at, 1))
    gone_in = int(job.status["iteration"])
    job.wait_for_phase("Completed", 2 * WELL_SECONDS)

    status, rewards = job.status, [record.reward for record in iterations(state)]
    assert gone_in < ITERATIONS
    assert (status["iteration"], status["restarts"], status["attempt"]) == (ITERATIONS, 0, 0)
    assert sum(rewards[-3:]) / 3 - sum(rewards[:3]) / 3 >= 0.1
