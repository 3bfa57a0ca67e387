"""`kubectl apply` of example 01 on a real node: it trains, switches and completes, and its reward rises."""

import json
from pathlib import Path

import pytest

from tests.cluster.cluster_jobs import ClusterJob, cluster_job
from tests.cluster.operator_process import OperatorProcess
from tests.e2e.jobs import iterations
from tests.ground.access import until
from tests.ground.real_node import RealNode

pytestmark = pytest.mark.node

ITERATIONS = 20


def test_a_job_that_is_applied_trains_switches_and_completes_with_the_reward_rising(
    real_node: RealNode, operator: OperatorProcess, node_namespace: str, toy: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    job = ClusterJob(real_node, node_namespace)

    manifest = cluster_job(real_node, node_namespace, toy, state, iterations=ITERATIONS)
    real_node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    job.wait_for_phase("Completed", 900)

    status = job.status
    rewards = [record.reward for record in iterations(state)]
    assert (status["iteration"], status["epoch"], status["restarts"]) == (ITERATIONS, 2 * ITERATIONS, 0)
    assert len(status["switches"]) == 10
    assert sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5 >= 0.2
    assert status["reward"]["mean"] == pytest.approx(rewards[-1], abs=1e-4)
    assert job.condition("Completed")["status"] == "True"
    assert (state / "policy" / "model.safetensors").is_file()
    until(lambda: set(job.pods()) == {"reverse-digits-master"}, 60, "the hybrid pod is not gone")
    assert "Completed" in job.events()
