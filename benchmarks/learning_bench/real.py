"""A trial as a real job: `tandem up`, etcd, vLLM and Megatron-Core."""

import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import yaml
from benchmarks.learning_bench.loop import outcome_of, read_iterations
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.tasks import Task
from benchmarks.learning_bench.trials import Trial, job_of
from benchmarks.switch_bench.jobs import write_job
from benchmarks.switch_bench.policies import EXAMPLE

ENGINES = ("hybrid", "rollout")
"""Sections of example 01's job that say how its engines run; the recipe is the trial's."""


def run_real(trial: Trial, task: Task) -> Outcome:
    """Run a trial by `tandem up`. Errors: PartError where the command fails."""
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), "learning", manifest_of(trial, task))
        began = monotonic()
        job.run_to_end()
        outcome = outcome_of(trial, read_iterations(job.history), monotonic() - began)
    return outcome.model_copy(update={"is_real": True})


def manifest_of(trial: Trial, task: Task) -> dict[str, Any]:
    """Return a trial as an RLJob: what the tiny engine is told, and the example's engines."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "rljob.yaml").read_text())
    ours = job_of(trial, task).spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    job["metadata"] = {"name": "learning"}
    job["spec"] = {**{name: job["spec"][name] for name in ENGINES}, **ours}
    return job
