"""One trial: the real master, with its real buffer, samplers, rewards and batches, against the tiny engine.

What is not real: etcd (a registry in memory), the members of the switch (which answer at once), vLLM and Megatron-Core.
"""

import asyncio
import json
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic

import torch
from benchmarks.learning_bench.engine import TinyEngine
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.tasks import Task
from benchmarks.learning_bench.trials import POD, SET, Trial, job_of
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script, on_stage

from tandem_api.history import RECORD, IterationRecord
from tandem_master.buffer.store import open_buffer
from tandem_master.loop import run_job
from tandem_master.settings import Settings
from tandem_master.stop import StopSignal

TOKEN = "learning"


class TrialError(Exception):
    """A run of the loop has failed."""


def run_trial(trial: Trial, task: Task) -> Outcome:
    """Run a trial to its end. Errors: TrialError."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(trial, task, Path(folder)))


async def _run(trial: Trial, task: Task, state: Path) -> Outcome:
    began = monotonic()
    settings = Settings(job_of(trial, task), TOKEN, (), state, "learning-master", "127.0.0.1")
    engine = TinyEngine(load_policy(task.policy), task.eos_token_id, settings.job, TOKEN, task.accuracy)
    registry = FakeRegistry()
    async with engine.listening() as port, on_stage(registry, settings.keys, (POD,), port, Script()):
        code = await run_job(settings, registry, StopSignal())
    records = read_iterations(state / "metrics.jsonl")
    if code != 0:
        raise TrialError(f"{trial.key}: the master has ended with {code} after {len(records)} iterations")
    outcome = outcome_of(trial, records, monotonic() - began, tuple(engine.examined))
    shares = hard_shares(state / "buffer.sqlite", len(records), task.problems)
    return outcome.model_copy(update={"hard_shares": shares})


def hard_shares(buffer: Path, num_iterations: int, problems: Path) -> tuple[float, ...]:
    """Return the share of the hardest problems in what each iteration drew, by the labels of the problems."""
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    hardest = max(row["difficulty"] for row in rows)
    hard = {f"{SET}/{row['id']}" for row in rows if row["difficulty"] == hardest}
    with closing(open_buffer(buffer)) as opened:
        draws = [opened.draw_of(iteration) for iteration in range(1, num_iterations + 1)]
    drawn = [draw.problem_ids if draw else () for draw in draws]
    return tuple(sum(problem in hard for problem in ids) / max(1, len(ids)) for ids in drawn)


def load_policy(folder: Path) -> torch.nn.Module:
    """Return a policy of transformers in float32, ready to sample."""
    from transformers import Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model: torch.nn.Module = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def read_iterations(path: Path) -> list[IterationRecord]:
    """Return the iterations of a run, from its metrics.jsonl."""
    records = [RECORD.validate_json(line) for line in path.read_text().splitlines()]
    return [record for record in records if isinstance(record, IterationRecord)]


def outcome_of(
    trial: Trial, records: list[IterationRecord], seconds: float, accuracies: tuple[float, ...] = ()
) -> Outcome:
    """Return what the records of a trial say."""
    return Outcome(
        method=trial.method,
        rate=trial.rate,
        seed=trial.seed,
        own=trial.own,
        rewards=tuple(record.reward for record in records),
        response_tokens=tuple(record.response_tokens for record in records),
        accuracies=accuracies,
        max_abs_logprob_difference=max(record.max_abs_logprob_difference for record in records),
        seconds=seconds,
    )
