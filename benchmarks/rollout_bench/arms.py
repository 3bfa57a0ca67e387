"""Example 03 by `tandem up`, for a set time: as it is, waiting for the longest, and in other ways."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType
from typing import Any

import yaml
from benchmarks.report.result import PartError, last_words
from benchmarks.switch_bench.jobs import Job, refusal, write_job

from tandem_api.history import SwitchRecord
from tandem_cli.feed import HistoryTail

EXAMPLE = Path(__file__).parents[2] / "examples" / "03-partial-rollouts"
STOPPED = 130
"""Exit code of a command that was stopped by its user."""
ENDLESS = 100_000
"""Iterations: more than there is time for."""
POLL_SECONDS = 0.02
START_SECONDS, END_SECONDS = 120.0, 60.0
COMPLETE_SHARE = 0.8
"""Of the stop rule's column."""
STOP_WARM_UP = 8
"""Iterations after which so few are left of a phase's unfinished fifth that they do not count."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of sampling: what it changes in the example's recipe."""

    name: str
    changes: Mapping[str, Mapping[str, Any]]
    num_warm_up: int = 1
    """Iterations until a phase begins with as much as any other."""


def arms(longest: int) -> Mapping[str, Arm]:
    """Return all arms. `longest`: policy.maxLengthTokens of the example."""
    whole = {"tokenBudget": longest}
    budget = example()["spec"]["recipe"]["partialRollout"]["tokenBudget"]
    filling = -(-longest // budget)
    found = (
        Arm("partial", {}, filling),
        Arm("full", {"partialRollout": whole}),
        Arm("stop", {"partialRollout": {**whole, "stopWhenCompleteShare": COMPLETE_SHARE}}, STOP_WARM_UP),
        Arm("unstopped", {"repeats": {"windowTokens": 0}}),
    )
    return {arm.name: arm for arm in found}


def example() -> dict[str, Any]:
    """Return the example's RLJob."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "rljob.yaml").read_text())
    return job


def maker() -> ModuleType:
    """Return the example's own script: it draws the problems, and knows how likely a policy solves them."""
    place = importlib.util.spec_from_file_location("make_counting_policy", EXAMPLE / "make_counting_policy.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module  # its dataclasses look themselves up
    place.loader.exec_module(module)
    return module


def make_policy(folder: Path) -> Path:
    """Make the example's policy and problems by its own script; return the folder of both."""
    command = [sys.executable, str(EXAMPLE / "make_counting_policy.py"), "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def manifest(arm: Arm, made: Path, seed: int, **recipe: Any) -> dict[str, Any]:
    """Return the RLJob of an arm."""
    job = example()
    spec = job["spec"]
    spec["policy"]["model"]["path"] = str(made / "policy")
    spec["data"]["train"][0]["path"] = str(made / "data" / "train.jsonl")
    spec["recipe"] |= {"iterations": ENDLESS, "seed": seed, **recipe}
    spec["checkpoints"] = {"everyIterations": ENDLESS}
    for field, values in arm.changes.items():
        spec["recipe"][field] = {**spec["recipe"].get(field, {}), **values}
    return job


def run_for(job: Job, seconds: float) -> None:
    """Run a job until so many seconds after its first switch; what it has by then is saved. PartError if it fails."""
    with job.running() as process:
        _wait_for_switch(job, process)
        deadline = monotonic() + seconds
        while monotonic() < deadline and process.poll() is None:
            sleep(POLL_SECONDS)
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)
    if process.returncode != STOPPED:
        raise PartError(f"`tandem up` has ended with {process.returncode}:\n{last_words(job.output(), 6)}")


def prepare(arm: Arm, made: Path, seed: int, folder: Path) -> Job:
    """Write the job of an arm. PartError where this version does not take it."""
    job = manifest(arm, made, seed)
    why = refusal(job)
    if why is not None:
        raise PartError(why)
    return write_job(folder, f"{arm.name}-{seed}", job)


def _wait_for_switch(job: Job, process: "subprocess.Popen[bytes]") -> None:
    tail, deadline = HistoryTail(job.history), monotonic() + START_SECONDS
    while not _has_switched(tail):
        if process.poll() is not None or monotonic() > deadline:
            raise PartError(f"the job did not start:\n{last_words(job.output(), 6)}")
        sleep(POLL_SECONDS)


def _has_switched(tail: HistoryTail) -> bool:
    records: Sequence[object] = tail.new_records()
    return any(isinstance(record, SwitchRecord) for record in records)
