"""Killed at random moments, a deterministic job ends bit for bit as one that nobody has killed."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem_api.history import IterationRecord, RunStarted
from tandem_master.buffer.store import open_buffer
from tandem_master.sampling.state import Tally
from tests.e2e.jobs import iterations, records, write_job
from tests.e2e.killing import COMMAND, MASTER, SERVER, TRAINER, KilledJob, planned_kills

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

TABLES = {
    "draws": "SELECT * FROM draws ORDER BY iteration",
    "trajectories": "SELECT * FROM trajectories ORDER BY ordinal",
    "segments": "SELECT * FROM segments ORDER BY trajectory_id, position",
    "iterations": "SELECT iteration, generation FROM iterations ORDER BY iteration",
}
TIMES = ("at", "seconds", "tokens_per_second")
RECIPE: dict[str, Any] = {
    "problemsPerIteration": 4,
    "samplesPerProblem": 4,
    "partialRollout": {"tokenBudget": 8},
    "sampling": {"strategy": "Mixture", "shares": {"uniform": 1, "prioritized": 1}, "dynamic": {"enabled": True}},
}


@dataclass(frozen=True)
class End:
    """What must not differ."""

    tables: Mapping[str, list[tuple[object, ...]]]
    tallies: Mapping[str, Tally]
    policy: str
    """Digest of the weights in the policy folder."""
    iterations: Mapping[int, dict[str, object]]
    """The last record of each iteration, without its times."""


def write_deterministic_job(folder: Path, toy: Path, *, deterministic: bool = True, **recipe: Any) -> Path:
    """Write example 01 as a small deterministic job that keeps a checkpoint of every second iteration."""
    folder.mkdir(exist_ok=True)
    path = write_job(folder, "01-reverse-digits", toy, **RECIPE, **recipe)
    job = yaml.safe_load(path.read_text())
    job["spec"]["rollout"]["deterministic"] = deterministic
    job["spec"]["checkpoints"] = {"everyIterations": 2}
    path.write_text(yaml.safe_dump(job))
    return path


def end_of(run: Path) -> End:
    with closing(sqlite3.connect(run / "buffer.sqlite")) as connection:
        tables = {name: connection.execute(query).fetchall() for name, query in TABLES.items()}
    with closing(open_buffer(run / "buffer.sqlite")) as buffer:
        tallies = buffer.tallies()
    policy = sha256((run / "policy" / "model.safetensors").read_bytes()).hexdigest()
    return End(tables, tallies, policy, {record.iteration: untimed(record) for record in iterations(run)})


def untimed(record: IterationRecord) -> dict[str, object]:
    return record.model_dump(exclude=set(TIMES))


def unequal_parts(end: End, expected: End) -> list[str]:
    """Return what differs, by name; tables by their own."""
    tables = [name for name in TABLES if end.tables[name] != expected.tables[name]]
    others = [name for name in ("tallies", "policy", "iterations") if getattr(end, name) != getattr(expected, name)]
    return [*tables, *others]


def trained_twice(run: Path) -> list[int]:
    """Return iterations that were committed again although no master had gone back before them."""
    done, again = 0, []
    for record in records(run):
        if isinstance(record, RunStarted):
            done = record.iteration
        elif isinstance(record, IterationRecord):
            again += [record.iteration] if record.iteration != done + 1 else []
            done = record.iteration
    return again


@pytest.mark.campaign  # one and a half minutes
def test_a_deterministic_job_that_is_killed_ends_as_one_that_is_not(toy: Path, tmp_path: Path) -> None:
    expected = undisturbed_end(toy, tmp_path, num_iterations=8)
    kills = planned_kills(seed=8, num_kills=3, shares={MASTER: 0.75, COMMAND: 0.25}, most_seconds=2.0)
    killed = KilledJob(write_deterministic_job(tmp_path / "killed", toy, iterations=8), tmp_path / "killed" / "run")

    killed.run_to_end(kills)

    assert killed.num_done == len(kills)
    assert unequal_parts(end_of(killed.run), expected) == []
    assert trained_twice(killed.run) == []


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [50, 51])
def test_a_deterministic_job_that_is_killed_25_times_ends_as_one_that_is_not(
    toy: Path, tmp_path: Path, seed: int
) -> None:
    expected = undisturbed_end(toy, tmp_path, num_iterations=40)
    shares = {MASTER: 0.6, COMMAND: 0.14, TRAINER: 0.13, SERVER: 0.13}
    kills = planned_kills(seed=seed, num_kills=25, shares=shares, most_seconds=4.0)
    killed = KilledJob(write_deterministic_job(tmp_path / "killed", toy, iterations=40), tmp_path / "killed" / "run")

    killed.run_to_end(kills)

    assert killed.num_done == len(kills)
    assert unequal_parts(end_of(killed.run), expected) == []
    assert trained_twice(killed.run) == []


def undisturbed_end(toy: Path, folder: Path, num_iterations: int) -> End:
    """Run the job without a kill."""
    job = write_deterministic_job(folder / "whole", toy, iterations=num_iterations)
    whole = KilledJob(job, folder / "whole" / "run")
    whole.run_to_end([])
    return end_of(whole.run)
