"""Killed between any two durable writes, a run that is resumed ends as one that was never killed."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tandem_api.history import IterationRecord
from tandem_api.job.sampling import DynamicSamplingSpec, SamplingSpec, SamplingStrategy, StrategyShares
from tandem_api.weights import Layout, Shard
from tandem_master.buffer.store import open_buffer
from tandem_master.sampling.state import Tally
from tandem_master.settings import Settings
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.conftest import PODS, PROBLEMS, Job, job_config, with_spec
from tests.tandem_master.durable_writes import WITNESS, Killed, Witness, witnessed_writes
from tests.tandem_master.engine_stub import TOKEN, serving
from tests.tandem_master.evaluations import evaluations, hold_out, stored
from tests.tandem_master.reckoning import ReckoningStub

pytestmark = pytest.mark.usefixtures("witnessed_writes")
__all__ = ["witnessed_writes"]

ITERATIONS = 3
SEED = 4
"""One with which a run shows all that the last test here wants."""
SOON = 60.0
MOST_COPIES = 50
AT_ONCE = 8
"""Jobs."""
QUERIES = {
    "draws": "SELECT * FROM draws ORDER BY iteration",
    "trajectories": "SELECT * FROM trajectories ORDER BY ordinal",
    "segments": "SELECT * FROM segments ORDER BY trajectory_id, position",
    "iterations": "SELECT iteration, generation FROM iterations ORDER BY iteration",
}
EVALUATION_QUERIES = {
    "samples": "SELECT * FROM samples ORDER BY generation, name, problem_id, number",
    "results": "SELECT generation, name, digest, json_remove(record, '$.at', '$.seconds') FROM results ORDER BY 1, 2",
}


@dataclass(frozen=True)
class End:
    """What a run has come to."""

    exit_code: int
    buffer: Mapping[str, list[tuple[object, ...]]]
    """Each table, whole."""
    tallies: Mapping[str, Tally]
    """The sampler's state, besides the positions of the last draw."""
    weights: str
    result: tuple[str, str]
    """How the last master ended, and of what."""
    iterations: Mapping[int, IterationRecord]
    """What was recorded of each iteration last, without its times."""
    recorded: tuple[int, ...]
    """Every iteration of which there is a record, as often as it was committed."""
    evaluation: Mapping[str, list[tuple[object, ...]]]
    """Each table of evaluations, whole, but for the times in results."""
    evaluated: tuple[int, ...]
    """Every generation of which there is a result in the diary, as often as it was told."""


END_PARTS = [field.name for field in fields(End)]


@asynccontextmanager
async def opened(folder: Path, *, evaluates: bool = False) -> AsyncIterator[Job]:
    """A job in `folder`, which may hold the state of one that was killed, with servers and trainers of its own."""
    settings = Settings(job_config(folder), TOKEN, (), folder / "state", "toy-master", "127.0.0.1")
    registry = FakeRegistry()

    async def served() -> int:
        return int(await registry.get(settings.keys.published) or 0)

    async def register(generation: int) -> None:
        lineage = (await job.word()).lineage
        shards = tuple(f"{pod}/0" for pod in PODS)
        layout = Layout(generation=generation, lineage=lineage, tensors=(), shards=shards)
        shard = Shard(
            generation=generation, incarnation="", lineage=lineage, epoch=0, segment="s", segment_bytes=0, pieces=()
        )
        await registry.put(settings.keys.layout(generation), layout.model_dump_json())
        for pod in PODS:
            await registry.put(settings.keys.shard(generation, pod, 0), shard.model_dump_json())

    stub = ReckoningStub(dict(PROBLEMS), served, register, settings.state / "checkpoints")
    async with serving(stub) as port:
        job = Job(settings, registry, stub, port)
        shares = StrategyShares(uniform=1, prioritized=1)
        sampling = SamplingSpec(
            strategy=SamplingStrategy.MIXTURE, shares=shares, dynamic=DynamicSamplingSpec(enabled=True)
        )
        with_spec(job, "recipe", seed=SEED, iterations=ITERATIONS, problems_per_iteration=2, sampling=sampling)
        with_spec(job, "rollout", deterministic=True)
        with_spec(job, "switch", train_to_infer_deadline_seconds=SOON, infer_to_train_deadline_seconds=SOON)
        if evaluates:
            hold_out(job, every=2)
        yield job


async def run_in(folder: Path, witness: Witness | None = None, *, evaluates: bool = False) -> End:
    async with opened(folder, evaluates=evaluates) as job:
        WITNESS.set(witness)
        exit_code = await job.run()
        return end_of(job, exit_code)


async def run_and_kill_at(folder: Path, is_point: Callable[[int], bool], *, evaluates: bool = False) -> End:
    """Run a master that is killed before its first such write, by its number; then another beside the same members."""

    def before(number: int) -> None:
        if is_point(number):
            raise Killed

    async with opened(folder, evaluates=evaluates) as job, job.members():
        WITNESS.set(Witness(before))
        with suppress(Killed):  # what is written together, and so how often, depends on the moment
            await job.run_master()
        WITNESS.set(None)
        return end_of(job, await job.run_master())


def end_of(job: Job, exit_code: int) -> End:
    assert isinstance(job.stub, ReckoningStub)
    path = job.settings.state / "buffer.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        tables = {name: connection.execute(query).fetchall() for name, query in QUERIES.items()}
    with closing(open_buffer(path)) as buffer:
        tallies = buffer.tallies()
    evaluation = {name: stored(job, query) for name, query in EVALUATION_QUERIES.items()}
    records = {record.iteration: untimed(record) for record in job.iterations()}
    return End(
        exit_code,
        tables,
        tallies,
        job.stub.weights.get(ITERATIONS, ""),
        job.ends()[-1],
        records,
        tuple(record.iteration for record in job.iterations()),
        evaluation,
        tuple(record.generation for record in evaluations(job)),
    )


def untimed(record: IterationRecord) -> IterationRecord:
    return record.model_copy(update={"at": 0.0, "seconds": 0.0, "tokens_per_second": 0.0})


async def each(points: Iterable[int], run: Callable[[int], Awaitable[End]]) -> dict[int, End]:
    """Return what comes of `run` for every point; some of them at once."""
    seats = asyncio.Semaphore(AT_ONCE)

    async def seated(point: int) -> End:
        async with seats, asyncio.timeout(SOON):
            return await run(point)

    points = list(points)
    return dict(zip(points, await asyncio.gather(*(seated(point) for point in points)), strict=True))


def unequal(ends: Mapping[int, End], expected: End, *, but: Sequence[str] = ()) -> dict[int, list[str]]:
    """Return for each point the parts of the end that are not as expected, where there are any."""
    found = {
        point: [name for name in END_PARTS if name not in but and getattr(end, name) != getattr(expected, name)]
        for point, end in ends.items()
    }
    return {point: names for point, names in found.items() if names}


def copy_state(state: Path, folder: Path) -> None:
    """Copy what a kill at this point leaves; again where a checkpoint is put in its place, or removed, meanwhile."""
    for _ in range(MOST_COPIES):
        with suppress(OSError, shutil.Error):
            shutil.copytree(state, folder)
            return
        shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError(f"{state} does not hold still")


async def test_a_job_of_which_everything_is_killed_ends_the_same_wherever_that_was(tmp_path: Path) -> None:
    state = tmp_path / "whole" / "state"

    def keep(number: int) -> None:
        copy_state(state, tmp_path / str(number) / "state")

    witness = Witness(keep)
    expected = await run_in(tmp_path / "whole", witness)

    ends = await each(range(2, witness.num_writes + 1), lambda point: run_in(tmp_path / str(point)))

    assert expected.result == ("Completed", "")
    assert unequal(ends, expected, but=["recorded"]) == {}  # what came after the checkpoint is committed once more


async def test_a_job_whose_master_is_killed_ends_the_same_wherever_that_was(tmp_path: Path) -> None:
    witness = Witness(lambda number: None)
    expected = await run_in(tmp_path / "whole", witness)

    def run(point: int) -> Awaitable[End]:
        return run_and_kill_at(tmp_path / str(point), lambda number: number == point)

    ends = await each(range(1, witness.num_writes + 1), run)

    assert unequal(ends, expected) == {}


def evaluation_rows(state: Path) -> int:
    """Return how many samples, results and lines in the diary there are of evaluations; none is ever taken back."""
    path = state / "evaluation.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        counts = [connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("samples", "results")]
    return int(sum(counts)) + (state / "metrics.jsonl").read_text().count('"kind":"evaluation"')


async def test_a_job_of_which_everything_is_killed_within_an_evaluation_ends_the_same(tmp_path: Path) -> None:
    state, points = tmp_path / "whole" / "state", list[int]()

    def keep(number: int) -> None:
        rows = evaluation_rows(state) if number > 1 else 0
        if rows > max(points, default=0):
            copy_state(state, tmp_path / str(rows) / "state")
            points.append(rows)

    expected = await run_in(tmp_path / "whole", Witness(keep), evaluates=True)

    ends = await each(points, lambda point: run_in(tmp_path / str(point), evaluates=True))

    assert len(points) >= 3 * 3  # of each: after some samples, all of them, and the result
    assert unequal(ends, expected, but=["recorded", "evaluated"]) == {}


async def test_a_job_whose_master_is_killed_within_an_evaluation_ends_the_same(tmp_path: Path) -> None:
    expected = await run_in(tmp_path / "whole", evaluates=True)
    points = range(1, evaluation_rows(tmp_path / "whole" / "state") + 1)

    killed = set[int]()

    def run(point: int) -> Awaitable[End]:
        folder = tmp_path / str(point)

        def is_point(number: int) -> bool:
            is_there = number > 1 and evaluation_rows(folder / "state") >= point
            killed.update([point] if is_there else [])
            return is_there

        return run_and_kill_at(folder, is_point, evaluates=True)

    ends = await each(points, run)

    assert expected.evaluated == (0, 2, 3)
    assert killed == set(points)
    assert unequal(ends, expected) == {}


async def test_the_evaluations_that_are_compared_have_right_and_wrong_answers_cut_and_whole(tmp_path: Path) -> None:
    end = await run_in(tmp_path, evaluates=True)

    samples = end.evaluation["samples"]
    assert len(samples) == 3 * 2 * 2
    assert {sample[-1] for sample in samples} == {0, 1}


async def test_the_runs_that_are_compared_draw_again_carry_over_and_keep_checkpoints(tmp_path: Path) -> None:
    end = await run_in(tmp_path)

    assert max(record.refills for record in end.iterations.values()) > 0
    assert max(record.unfinished for record in end.iterations.values()) > 0
    assert [record.trained > 0 for record in end.iterations.values()] == [False, True, True]
