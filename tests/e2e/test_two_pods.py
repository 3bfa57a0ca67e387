"""Example 02: two pods, each with two data-parallel ranks and two servers, switch together."""

from pathlib import Path

import pytest

from tandem_api.history import SwitchRecord
from tests.e2e.jobs import iterations, leftovers, records, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]


def test_two_pods_train_and_serve_one_policy(toy: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, "02-two-pods", toy, iterations=2)
    run = tmp_path / "run"

    process = start(job, run)
    output, _ = process.communicate(timeout=500)
    switches = [record for record in records(run) if isinstance(record, SwitchRecord)]

    assert process.returncode == 0, output
    assert [record.iteration for record in iterations(run)] == [1, 2]
    assert len(switches) == 4
    assert {(stage.pod, stage.role) for stage in switches[-1].stages} == {
        ("two-pods-hybrid-0", "train"),
        ("two-pods-hybrid-0", "rollout"),
        ("two-pods-hybrid-1", "train"),
        ("two-pods-hybrid-1", "rollout"),
        ("two-pods-master", "master"),
    }
    assert leftovers(run) == []
