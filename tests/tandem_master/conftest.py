"""A whole toy job around the master: policy, problems, registry, members and their HTTP servers."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem_api.engine import JobConfig, Sample
from tandem_api.history import RECORD, CheckpointRecord, IterationRecord, Record, RunEnded, RunStarted
from tandem_api.job.operations import CheckpointsSpec, SwitchSpec
from tandem_api.job.policy import DataSpec, Dtype, ModelSource, PolicySpec, ProblemSet
from tandem_api.job.recipe import ObjectiveSpec, PartialRolloutSpec, RecipeSpec
from tandem_api.job.rewards import BuiltinReward, RewardSpec
from tandem_api.job.sampling import SamplingSpec, SamplingStrategy
from tandem_api.job.spec import RLJobSpec
from tandem_api.registry import Desired, Progress
from tandem_master import loop
from tandem_master.evaluation import final
from tandem_master.loop import run_job
from tandem_master.settings import Settings
from tandem_master.stop import StopSignal
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script, on_stage
from tests.tandem_master.engine_stub import TOKEN, EngineStub, serving
from tests.tandem_master.texts import write_policy, write_problems

PODS = ("toy-hybrid-0", "toy-hybrid-1")
PROBLEMS = [("12=", "21"), ("34=", "43"), ("123456=", "654321"), ("57=", "75"), ("234567=", "765432"), ("68=", "86")]
"""Two answers are longer than the token budget of 4."""


@dataclass(slots=True)
class Job:
    """One job whose master can be run, stopped and run again."""

    settings: Settings
    registry: FakeRegistry
    stub: EngineStub
    port: int
    script: Script = field(default_factory=Script)
    stop: StopSignal = field(default_factory=StopSignal)

    async def run(self) -> int:
        """Run master and members to the master's end; return its exit code."""
        async with self.members():
            return await self.run_master()

    def members(self) -> AbstractAsyncContextManager[None]:
        """Have a trainer and a server of each pod while the context is open, whatever becomes of the master."""
        holds = self.stub.made.__contains__
        return on_stage(self.registry, self.settings.keys, PODS, self.port, self.script, holds)

    async def run_master(self) -> int:
        """Run the master alone to its end; return its exit code."""
        self.stop = StopSignal()
        return await run_job(self.settings, self.registry, self.stop)

    async def until_told(self, epoch: int) -> Desired:
        """Return the master's word of an epoch, as soon as it is spoken."""
        async for changes in self.registry.watch(self.settings.keys.desired):
            for word in [Desired.model_validate_json(change.value) for change in changes if change.value]:
                if word.epoch == epoch:
                    return word
        raise AssertionError("a watch does not end")

    async def word(self) -> Desired:
        """The master's last word."""
        return Desired.model_validate_json(await self.registry.get(self.settings.keys.desired) or "")

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl."""
        return [RECORD.validate_json(line) for line in (self.settings.state / "metrics.jsonl").read_text().splitlines()]

    def iterations(self) -> list[IterationRecord]:
        return [record for record in self.records() if isinstance(record, IterationRecord)]

    def checkpoints(self) -> list[CheckpointRecord]:
        return [record for record in self.records() if isinstance(record, CheckpointRecord)]

    def starts(self) -> list[int]:
        """The committed iteration that each start of a master went on from."""
        return [record.iteration for record in self.records() if isinstance(record, RunStarted)]

    def ends(self) -> list[tuple[str, str]]:
        """How each master has ended, and of what."""
        return [(record.result, record.message) for record in self.records() if isinstance(record, RunEnded)]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What the replay buffer answers."""
        with closing(sqlite3.connect(self.settings.state / "buffer.sqlite")) as connection:
            return connection.execute(query).fetchall()

    def trained_samples(self) -> list[Sample]:
        """Every sample that the trainers were given."""
        requests = self.stub.train_requests
        return [item for request in requests for step in request.steps for share in step for item in share]

    async def progress(self) -> Progress:
        """The progress key."""
        return Progress.model_validate_json(await self.registry.get(self.settings.keys.progress) or "")


def job_config(folder: Path) -> JobConfig:
    """Three iterations of two problems with two samples each."""
    policy = write_policy(folder / "base")
    problems = write_problems(folder / "train.jsonl", PROBLEMS)
    recipe = RecipeSpec(
        iterations=3,
        problems_per_iteration=2,
        samples_per_problem=2,
        seed=3,
        partial_rollout=PartialRolloutSpec(token_budget=4),
        objective=ObjectiveSpec(steps_per_iteration=2),
        sampling=SamplingSpec(strategy=SamplingStrategy.UNIFORM),
    )
    spec = RLJobSpec(
        policy=PolicySpec(model=ModelSource(path=str(policy)), dtype=Dtype.FLOAT32),
        data=DataSpec(train=(ProblemSet(name="digits", path=str(problems)),)),
        rewards=(RewardSpec(name="answer", builtin=BuiltinReward.EXACT_MATCH),),
        recipe=recipe,
        switch=SwitchSpec(train_to_infer_deadline_seconds=5, infer_to_train_deadline_seconds=5),
        checkpoints=CheckpointsSpec(every_iterations=2, keep_last=1),
    )
    return JobConfig(namespace="default", name="toy", spec=spec, hybrid_pods=PODS, device="cpu")


def with_spec(job: Job, section: str, **changes: object) -> None:
    """Change fields of one section of the job's spec."""
    spec = job.settings.job.spec
    changed = getattr(spec, section).model_copy(update=changes)
    config = job.settings.job.model_copy(update={"spec": spec.model_copy(update={section: changed})})
    job.settings = Settings(
        config, TOKEN, job.settings.etcd_endpoints, job.settings.state, job.settings.pod, job.settings.address
    )


def let_no_answer_fit_the_budget(job: Job) -> None:
    """Have every answer begin with more tokens than one iteration samples of it: the first finishes none."""
    job.stub.solutions = {prompt: (5, 5, 5, *answer) for prompt, answer in job.stub.solutions.items()}


def ids(rows: Sequence[tuple[object, ...]]) -> list[object]:
    """The first column."""
    return [row[0] for row in rows]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Job]:
    """A job with its own state, registry and servers."""
    settings = Settings(job_config(folder), TOKEN, (), folder / "state", "toy-master", "127.0.0.1")
    stub = EngineStub(dict(PROBLEMS))
    async with serving(stub) as port:
        yield Job(settings, FakeRegistry(), stub, port)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again almost at once."""
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(final, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    async with opened(tmp_path / "job") as one:
        yield one


@pytest.fixture
async def twin(tmp_path: Path) -> AsyncIterator[Job]:
    """Another job, with the same spec."""
    async with opened(tmp_path / "twin") as one:
        yield one
