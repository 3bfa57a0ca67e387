"""Held-out sets for the toy job, and what is known of their evaluations."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tandem_api.history import EvaluationRecord
from tandem_api.job.policy import EvaluationSet
from tests.tandem_master.conftest import Job, with_spec
from tests.tandem_master.texts import write_problems

HELD_OUT = [("654321=", "123456"), ("21=", "12")]
"""The second answer is longer than the token budget of 4."""


def hold_out(job: Job, *, every: int = 2, samples: int = 2, deadline_seconds: float = 60.0) -> None:
    """Give the job one held-out set, whose problems the servers know."""
    path = write_problems(Path(job.settings.job.spec.data.train[0].path).with_name("test.jsonl"), HELD_OUT)
    held_out = EvaluationSet(
        name="test",
        path=str(path),
        every_iterations=every,
        samples_per_problem=samples,
        deadline_seconds=deadline_seconds,
    )
    with_spec(job, "data", evaluation=(held_out,))
    job.stub.know(dict(HELD_OUT))


def evaluations(job: Job) -> list[EvaluationRecord]:
    return [record for record in job.records() if isinstance(record, EvaluationRecord)]


def asked_of_held_out(job: Job) -> int:
    """How many completions of held-out prompts the servers were asked for from their beginning."""
    prompts = job.stub.prompts(dict(HELD_OUT))
    return sum(prompt in prompts for prompt, _ in job.stub.answered)


def stored(job: Job, query: str) -> list[tuple[object, ...]]:
    """What the file of evaluations answers."""
    with closing(sqlite3.connect(job.settings.state / "evaluation.sqlite")) as connection:
        return connection.execute(query).fetchall()
