"""A model that spans two pods: each writes its own part, and brings the other's to its servers, each byte once."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.layouts.shares import regions_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tests.e2e.jobs import iterations, leftovers, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

RUN_SECONDS = 300.0
NUM_ITERATIONS = 3
LIMIT = 5e-5
"""Nats between a trainer and a server whose sums have another order."""
PODS = ("two-pods-hybrid-0", "two-pods-hybrid-1")
FETCHED = re.compile(r"generation (\d+): fetched (\d+) bytes in \d+ ranges from (\S+) in")


def write_spanning_job(folder: Path, toy: Path) -> Path:
    """Write example 02 with one rank and one server a pod; the two ranks share each matrix."""
    path = write_job(folder, "02-two-pods", toy, iterations=NUM_ITERATIONS, problemsPerIteration=12)
    job = yaml.safe_load(path.read_text())
    job["spec"]["hybrid"] |= {"replicas": len(PODS), "gpusPerPod": 1}
    job["spec"]["trainer"]["parallelism"] = {"tensor": 2}
    path.write_text(yaml.safe_dump(job))
    return path


def lacking_bytes(policy: Path) -> list[int]:
    """Return the bytes that each pod's own rank does not hold, by the layouts alone."""
    config = read_policy_config(policy)
    held = [
        {(region.corners, region.size) for region in regions_of(trainer_layout(config, place))}
        for pod in PodRanks(TrainerSplit(tensor=2), 1, num_pods=2).pods()
        for place in pod.places()
    ]
    every = held[0] | held[1]
    return [4 * sum(size for _, size in every - own) for own in held]


def fetched(run: Path, pod: str) -> list[tuple[int, int, str]]:
    """Return what a pod says of its fetches: generation, bytes, sources."""
    log = (run / "logs" / pod / "rollout.log").read_text()
    return [(int(generation), int(num_bytes), sources) for generation, num_bytes, sources in FETCHED.findall(log)]


@dataclass(frozen=True)
class Run:
    folder: Path
    code: int
    output: str


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("spanning")
    process = start(write_spanning_job(folder, toy), folder / "run")
    output, _ = process.communicate(timeout=RUN_SECONDS)
    return Run(folder / "run", process.returncode, output)


def test_trainer_and_servers_agree_about_every_token(run: Run) -> None:
    assert run.code == 0, run.output
    assert [record.iteration for record in iterations(run.folder)] == list(range(1, NUM_ITERATIONS + 1))
    assert max(record.max_abs_logprob_difference for record in iterations(run.folder)) < LIMIT


def test_the_servers_of_both_pods_hold_what_the_two_trainers_hold_together(run: Run) -> None:
    num_tensors = len(load_file(run.folder / "policy" / "model.safetensors"))

    told = [(run.folder / "logs" / pod / "rollout.log").read_text() for pod in PODS]

    assert all(f"self-test: {num_tensors} tensors equal" in log for log in told)


def test_each_pod_fetches_just_the_bytes_that_it_lacks(run: Run, toy: Path) -> None:
    lacking = lacking_bytes(toy / "policy")

    moved = [fetched(run.folder, pod) for pod in PODS]

    assert [generation for generation, *_ in moved[0]] == list(range(NUM_ITERATIONS))
    assert [{num_bytes for _, num_bytes, _ in of_pod} for of_pod in moved] == [{num_bytes} for num_bytes in lacking]
    assert [{sources for *_, sources in of_pod} for of_pod in moved] == [{PODS[1]}, {PODS[0]}]
    assert (
        0
        < sum(lacking)
        < 4 * sum(prod(tensor.shape) for tensor in load_file(toy / "policy" / "model.safetensors").values())
    )


def test_the_parts_of_both_pods_make_up_the_policy_that_is_saved(run: Run, toy: Path) -> None:
    before, after = (load_file(folder / "policy" / "model.safetensors") for folder in (toy, run.folder))

    assert {name: tensor.shape for name, tensor in after.items()} == {name: it.shape for name, it in before.items()}
    assert all((after[name] != before[name]).any() for name in before if "proj" in name)
    assert leftovers(run.folder) == []
