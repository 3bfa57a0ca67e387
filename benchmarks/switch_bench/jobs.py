"""Whole jobs by `tandem up`: example 01's policy, few problems, many iterations."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarks.report.result import PartError, last_words
from benchmarks.switch_bench.policies import EXAMPLE
from benchmarks.switch_bench.records import read_switches
from pydantic import ValidationError

from tandem_api.history import SwitchRecord
from tandem_api.job import RLJob
from tandem_cli.local.run_folder import HISTORY

TANDEM = Path(sys.executable).with_name("tandem")
START_SECONDS, ITERATION_SECONDS = 300.0, 30.0
"""Deadline of a job, far above what it takes."""
STOP_SECONDS = 30.0
Changes = Mapping[str, Mapping[str, Any]]
"""Of a job's spec, by its field; what is not named stays."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is ready to run."""

    file: Path
    run: Path
    iterations: int

    @property
    def history(self) -> Path:
        """Return where its records are."""
        return self.run / HISTORY

    @property
    def longest_seconds(self) -> float:
        """Return its deadline."""
        return START_SECONDS + ITERATION_SECONDS * self.iterations

    def output(self) -> str:
        """Return what the command has printed."""
        return self.file.with_suffix(".log").read_text(errors="replace")

    def run_to_end(self) -> list[SwitchRecord]:
        """Run it and return its switches. PartError where it fails."""
        with self.running() as process, suppress(subprocess.TimeoutExpired):
            process.wait(self.longest_seconds)
        return self.switches(process.returncode)

    def switches(self, code: int | None) -> list[SwitchRecord]:
        """Return the switches of a run that has ended with an exit code. PartError where this is not 0."""
        if code != 0:
            raise PartError(f"`tandem up` has ended with {code}:\n{last_words(self.output(), 6)}")
        return read_switches(self.history)

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Start it; if it still runs at the end, it is stopped."""
        with self.file.with_suffix(".log").open("wb") as output:
            process = subprocess.Popen(
                [str(TANDEM), "up", "-f", str(self.file), "--run-dir", str(self.run)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _stop(process)


def job_manifest(toy: Path, iterations: int, changes: Changes | None = None) -> dict[str, Any]:
    """Return example 01 with few problems and many iterations, and these changes of its spec."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "rljob.yaml").read_text())
    job["metadata"] = {"name": "switches"}
    spec = job["spec"]
    spec["policy"]["model"]["path"] = str(toy / "policy")
    spec["data"]["train"][0]["path"] = str(toy / "data" / "train.jsonl")
    spec["recipe"].update(iterations=iterations, problemsPerIteration=8, samplesPerProblem=4)
    spec["recipe"]["objective"]["stepsPerIteration"] = 1
    spec["checkpoints"] = {"everyIterations": 50}
    for field, values in (changes or {}).items():
        spec[field] = {**spec.get(field, {}), **values}
    return job


def refusal(manifest: Mapping[str, Any]) -> str | None:
    """Return why this version does not take a job; None: it does."""
    try:
        RLJob.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def write_job(folder: Path, name: str, manifest: Mapping[str, Any]) -> Job:
    """Write a job's file; its run gets a folder of its own."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(manifest)))
    return Job(file, folder / f"run-{name}", int(manifest["spec"]["recipe"]["iterations"]))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the command as a user would, then for good; what it has started ends with it."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
