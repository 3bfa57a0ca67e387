"""Jobs that are killed again and again, compared with one that is not.

    python -m tests.e2e.resumption --seed 50 --seed 51 --kills 25 --docs docs/results.md

For each seed a deterministic job is killed at random moments; it must end as an undisturbed one, bit for bit. Then one
without that mode, which must account for everything. Exit codes: 0 all of it holds, 1 not so.
"""

import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from benchmarks.page import put_section
from pydantic import TypeAdapter

from tandem_api.history import IterationRecord
from tests.e2e.accounts import unaccounted
from tests.e2e.ends import End, committed_twice, end_of, unequal_parts
from tests.e2e.jobs import write_job
from tests.e2e.killing import EVERYTHING, MASTER, SERVER, TRAINER, KilledJob
from tests.e2e.moments import Doing, Hit, Kill, planned_kills
from tests.faults.history import History, JobFacts
from tests.faults.invariants.trajectories import check_kept_trajectories
from tests.faults.job import make_toy

NUM_ITERATIONS = 60
SAMPLES, BUDGET_TOKENS = 4, 8
RECIPE: Mapping[str, Any] = {
    "problemsPerIteration": 4,
    "samplesPerProblem": SAMPLES,
    "partialRollout": {"tokenBudget": BUDGET_TOKENS},
    "sampling": {"strategy": "Mixture", "shares": {"uniform": 1, "prioritized": 1}, "dynamic": {"enabled": True}},
}
SHARES = {MASTER: 0.4, EVERYTHING: 0.28, TRAINER: 0.16, SERVER: 0.16}


@dataclass(frozen=True, slots=True)
class Killed:
    """A job that was killed, and what was found."""

    deterministic: bool
    seed: int
    num_planned: int
    hits: tuple[Hit, ...]
    num_iterations: int
    num_again: int
    """Iterations that were committed once more, after a return to a checkpoint."""
    seconds: float
    problems: tuple[str, ...]
    """Parts that differ, or what does not add up."""


HEAD = """## Killed and resumed

    {command}

{date}; {machine}. This section is written by the script.

Example 01's policy, real etcd, Megatron-Core and vLLM by `tandem up`, a checkpoint of every second iteration, a budget
of {budget} tokens, dynamic sampling, half of the draws prioritised. SIGKILL at random: the n-th kill waits for a random
iteration in the n-th of equal parts of the job, then for a random moment in one of its four phases, or comes while the
job still comes back from the last one; in each of the five come as many, but for the few that are late. "Everything":
every process of the job and its command, etcd included. In the deterministic mode the buffer with all its trajectories,
the records, the sampler's tallies and the weights are then compared, bit for bit, with those of a run that nobody
killed. Without it a [list of accounts](../tests/e2e/accounts.py) must balance, and before each kill the buffer must
hold what it held before, but for what a return to a checkpoint undoes.
"""
COLUMNS = (
    *("mode", "seed", "kills", "in different iterations", "after the first commit"),
    *("iterations", "run again", "minutes", "found"),
)
RESULT: TypeAdapter[list[Killed]] = TypeAdapter(list[Killed])


def write_killable_job(folder: Path, toy: Path, *, iterations: int, deterministic: bool = True) -> Path:
    """Write example 01 as a small job that carries over, draws again and keeps a checkpoint of every second
    iteration.
    """
    folder.mkdir(exist_ok=True, parents=True)
    path = write_job(folder, "01-reverse-digits", toy, **RECIPE, iterations=iterations)
    job = yaml.safe_load(path.read_text())
    job["spec"]["rollout"]["deterministic"] = deterministic
    job["spec"]["checkpoints"] = {"everyIterations": 2}
    path.write_text(yaml.safe_dump(job))
    return path


def run_undisturbed(folder: Path, toy: Path, *, iterations: int) -> End:
    """Run the deterministic job without a kill."""
    job = KilledJob(write_killable_job(folder, toy, iterations=iterations), folder / "run")
    job.run_to_end([])
    return end_of(job.run)


def run_killed(folder: Path, toy: Path, seed: int, kills: Sequence[Kill], expected: End, *, iterations: int) -> Killed:
    """Run the deterministic job, kill it, and compare its end."""
    job = KilledJob(write_killable_job(folder, toy, iterations=iterations), folder / "run")
    began = time.monotonic()
    job.run_to_end(kills)
    problems = [f"{part} differ" for part in unequal_parts(end_of(job.run), expected)]
    return _killed(job, kills, seed, time.monotonic() - began, problems, deterministic=True)


def run_killed_freely(folder: Path, toy: Path, seed: int, kills: Sequence[Kill], *, iterations: int) -> Killed:
    """Run the job without its deterministic mode, kill it, and see whether it accounts for everything."""
    path = write_killable_job(folder, toy, iterations=iterations, deterministic=False)
    job = KilledJob(path, folder / "run")
    began = time.monotonic()
    job.run_to_end(kills)
    problems = unaccounted(job.run / "buffer.sqlite", _last_records(job), samples=SAMPLES, budget=BUDGET_TOKENS)
    return _killed(job, kills, seed, time.monotonic() - began, problems, deterministic=False)


def _killed(
    job: KilledJob, kills: Sequence[Kill], seed: int, seconds: float, problems: Sequence[str], *, deterministic: bool
) -> Killed:
    commits = [record for record in job.records if isinstance(record, IterationRecord)]
    return Killed(
        deterministic=deterministic,
        seed=seed,
        num_planned=len(kills),
        hits=tuple(job.hits),
        num_iterations=len(_last_records(job)),
        num_again=len(commits) - len(_last_records(job)),
        seconds=seconds,
        problems=(*problems, *_losses(job)),
    )


def _last_records(job: KilledJob) -> list[IterationRecord]:
    return [*{record.iteration: record for record in job.records if isinstance(record, IterationRecord)}.values()]


def _losses(job: KilledJob) -> list[str]:
    """Return what was lost or done twice on the way, by what the buffer held before each kill and by the diary."""
    facts = JobFacts(hybrid_pods=(), budget_tokens=BUDGET_TOKENS)
    history = History(facts, diary=tuple(job.diary), snapshots=tuple(job.snapshots))
    rows = {row.id: row for snapshot in job.snapshots for row in snapshot.changed}
    bad = [key for key, row in rows.items() if any(segment.num_bad_logprobs for segment in row.segments)]
    return [
        *(violation.text for violation in check_kept_trajectories(history)),
        *(f"iteration {iteration} was committed twice" for iteration in committed_twice(job.records)),
        *(f"{key} has log-probabilities that are none" for key in bad),
    ]


def too_narrow(killed: Killed) -> list[str]:
    """Return why the kills of a job prove little: too few, or too many of them at one place."""
    hits = killed.hits
    training = [hit for hit in hits if hit.doing in (Doing.TO_TRAIN, Doing.TRAIN)]
    reasons = {
        f"{len(hits)} of {killed.num_planned} kills were done": len(hits) < killed.num_planned,
        "a quarter came before the first commit": 4 * sum(hit.iteration == 0 for hit in hits) > len(hits),
        "half of them hit the same iterations": 2 * len({hit.iteration for hit in hits}) < len(hits),
        "none hit a job that samples": all(hit.doing is not Doing.INFER for hit in hits),
        "none hit one that goes over to sampling": all(hit.doing is not Doing.TO_INFER for hit in hits),
        "none hit one that trains or goes over to it": not training,
        "nothing but one part was killed": len({hit.what for hit in hits}) < 2,
    }
    return [reason for reason, is_so in reasons.items() if is_so]


def render(results: Sequence[Killed], command: str) -> str:
    """Return the section of the page, in Markdown."""
    kinds = [EVERYTHING, MASTER, TRAINER, SERVER]
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), shared with other work, no GPU"
    lines = [
        HEAD.format(
            command=command, date=time.strftime("%Y-%m-%d", time.gmtime()), machine=machine, budget=BUDGET_TOKENS
        ),
        f"| {' | '.join(COLUMNS)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *map(_line, results),
        "",
        f"| killed | {' | '.join(Doing)} | all |",
        f"| --- |{' ---: |' * (len(Doing) + 1)}",
        *(_counts(name, [hit for one in results for hit in one.hits if hit.what == name]) for name in kinds),
        _counts("all", [hit for one in results for hit in one.hits]),
    ]
    return "\n".join(lines) + "\n"


def _line(one: Killed) -> str:
    cells = [
        "deterministic" if one.deterministic else "default",
        one.seed,
        len(one.hits),
        len({hit.iteration for hit in one.hits}),
        sum(hit.iteration > 0 for hit in one.hits),
        one.num_iterations,
        one.num_again,
        f"{one.seconds / 60:.1f}",
        "; ".join(one.problems) or ("no difference" if one.deterministic else "every account balances"),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _counts(name: str, hits: Sequence[Hit]) -> str:
    counts = [sum(hit.doing is doing for hit in hits) for doing in Doing]
    return f"| {name} | {' | '.join(map(str, counts))} | {len(hits)} |"


@click.command()
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(50, 51), help="Of a job's kills; may be given again."
)
@click.option("--kills", type=click.IntRange(1), default=25, show_default=True, help="Of each deterministic job.")
@click.option(
    "--free-kills", type=click.IntRange(1), default=10, show_default=True, help="Of the job without that mode."
)
@click.option("--iterations", type=click.IntRange(8), default=NUM_ITERATIONS, show_default=True, help="Of each job.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every kill to this file.")
@click.option("--docs", type=click.Path(path_type=Path), help="Write a section of this page.")
def main(
    seeds: tuple[int, ...], kills: int, free_kills: int, iterations: int, json_path: Path | None, docs: Path | None
) -> None:
    """Kill jobs at random moments, and compare what they come to."""
    folder = Path(tempfile.mkdtemp(prefix="resumption-"))
    toy = make_toy(folder / "toy")
    expected = run_undisturbed(folder / "whole", toy, iterations=iterations)
    results = []
    for seed in seeds:
        planned = planned_kills(seed, kills, iterations, SHARES)
        results.append(run_killed(folder / str(seed), toy, seed, planned, expected, iterations=iterations))
        click.echo(_line(results[-1]))
    planned = planned_kills(seeds[0], free_kills, iterations, SHARES)
    results.append(run_killed_freely(folder / "free", toy, seeds[0], planned, iterations=iterations))
    click.echo(_line(results[-1]))
    if json_path is not None:
        json_path.write_bytes(RESULT.dump_json(results, indent=2))
    if docs is not None:
        words = " ".join(f"--seed {seed}" for seed in seeds)
        put_section(
            docs, "resumption", render(results, f"python -m tests.e2e.resumption {words} --kills {kills} --docs {docs}")
        )
    narrow = [reason for one in results for reason in too_narrow(one)]
    click.echo("\n".join([*narrow, f"runs and logs: {folder}"]))
    raise SystemExit(1 if narrow or any(one.problems for one in results) else 0)


if __name__ == "__main__":
    main()
