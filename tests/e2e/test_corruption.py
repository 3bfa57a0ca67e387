"""A hand-over that is wrong on purpose fails loudly, before anything is trained on it."""

from pathlib import Path

import pytest
import yaml

from tests.e2e.jobs import iterations, leftovers, planting, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

MISMATCH = (
    "self-test: server 0 of reverse-digits-hybrid-0 differs from the trainer of reverse-digits-hybrid-0 in "
    "model.layers.0.mlp.up_proj.weight, where the trainer has what {policy} has; nothing was trained"
)


def test_one_wrong_weight_stops_the_job(toy: Path, tmp_path: Path) -> None:
    path = write_job(tmp_path, "01-reverse-digits", toy, iterations=2)
    job = yaml.safe_load(path.read_text())
    spoiled = {"name": "trainer", "env": [{"name": "PYTHONPATH", "value": planting("spoiling")}]}
    job["spec"]["podTemplate"] = {"spec": {"containers": [spoiled]}}
    path.write_text(yaml.safe_dump(job))

    process = start(path, tmp_path / "run")
    output, _ = process.communicate(timeout=300)

    assert process.returncode == 1, output
    assert MISMATCH.format(policy=toy / "policy") in output
    assert "switch 2" not in output
    assert "Traceback" not in output
    assert iterations(tmp_path / "run") == []
    assert leftovers(tmp_path / "run") == []
