"""A trainer that exceeds its memory limit is ended by the kernel, told by the kubelet, and replaced by the operator."""

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from tests.cluster.cluster_jobs import ClusterJob, cluster_job
from tests.cluster.operator_process import OperatorProcess
from tests.ground.access import until
from tests.ground.real_node import RealNode

pytestmark = [pytest.mark.node, pytest.mark.campaign]

PLANTED = Path(__file__).parent / "planted"
ITERATIONS = 8
WELL_SECONDS = 300.0
"""Time in which engines start, on busy cores."""
ONLY_OUT_OF_MEMORY = {"maxRestarts": 3, "rules": [
    {"match": {"container": "trainer", "reason": "OOMKilled"}, "action": "RestartGang"},
    {"match": {"container": "trainer"}, "action": "FailJob"},
]}  # fmt: skip
"""A policy under which any other end of a trainer fails the job."""


def test_a_trainer_that_exceeds_its_memory_limit_is_told_and_the_job_completes(
    real_node: RealNode,
    operator: OperatorProcess,
    node_namespace: str,
    toy: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    state, job = tmp_path / "state", ClusterJob(real_node, node_namespace)
    manifest = cluster_job(real_node, node_namespace, toy, state, iterations=ITERATIONS, problemsPerIteration=8)
    spec = manifest["spec"]
    spec["hybrid"]["resources"] = {"limits": {"memory": "2Gi"}}
    spec["checkpoints"]["everyIterations"] = 2
    spec["failurePolicy"] = ONLY_OUT_OF_MEMORY
    trainer = next(patch for patch in spec["podTemplate"]["spec"]["containers"] if patch["name"] == "trainer")
    trainer["env"].append({"name": "PYTHONPATH", "value": str(PLANTED)})
    real_node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    job.wait_for_iteration(3, WELL_SECONDS)

    hurt_at, reached = monotonic(), int(job.status["iteration"])
    (state / "leak").touch()
    until(lambda: job.status["attempt"] == 1, WELL_SECONDS, "the failure has not been noticed")
    record_property("seconds_to_notice", round(monotonic() - hurt_at, 1))
    until(lambda: job.condition("EnginesReady")["status"] == "True", WELL_SECONDS, "the engines are not ready")
    job.wait_for_iteration(reached + 1, WELL_SECONDS)
    record_property("seconds_to_recover", round(monotonic() - hurt_at, 1))
    job.wait_for_phase("Completed", WELL_SECONDS)

    assert (job.status["iteration"], job.status["restarts"]) == (ITERATIONS, 1)
    (told,) = job.messages("Restarting")
    assert told.startswith("reverse-digits-hybrid-0: container trainer ended with exit code ")
    assert "(OOMKilled)" in told
    record_property("operator_told", told)
