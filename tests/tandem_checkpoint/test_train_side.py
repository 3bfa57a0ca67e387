"""What a trainer holds, and what it tells the registry of it, from one generation to the next."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem_api.engine import CheckpointRequest, CheckpointStep, Sample, TrainRequest, TrainResponse
from tandem_api.job import Phase
from tandem_api.registry import Desired
from tandem_api.weights import Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch import train
from tandem_checkpoint.switch.protocol import Action
from tandem_checkpoint.switch.side import GenerationLost, Surroundings
from tandem_checkpoint.switch.train import TrainSide, WrongPhase
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.policies import write_config

KEYS = settings_of(job_config(Path("/policy")), Path("/shared")).keys
LINEAGE = "first"
PROGRAM = "tests.tandem_checkpoint.programs.trainer"
SAMPLE = Sample(token_ids=(1, 2), first_loss_token=1, sampled_logprobs=(-0.5,), advantage=0.5)


@dataclass(slots=True)
class Scene:
    """One trainer with a rank that has no model, and the registry that it registers in."""

    registry: FakeRegistry
    side: TrainSide
    epoch: int = 0

    async def act(self, action: Action, generation: int) -> None:
        """Do what a word of the master asks for."""
        self.epoch += 1
        desired = Desired(
            epoch=self.epoch,
            phase=Phase.TRAIN if action is Action.TRAIN else Phase.INFER,
            generation=generation,
            iteration=1,
            deadline=time.time() + 60,
            lineage=LINEAGE,
        )
        await self.side.acts[action](desired, Stopwatch())

    async def train(self, generation: int, *steps: tuple[Sample, ...]) -> TrainResponse:
        """Train from a generation, one rank with so many steps."""
        request = TrainRequest(
            epoch=self.epoch,
            generation=generation,
            max_logprob_difference=1e-4,
            steps=tuple((step,) for step in steps),
            samples_per_step=tuple(len(step) for step in steps),
        )
        return await self.side.train(request)

    async def num_steps_in(self, generation: int) -> int:
        """Return the weights of a registered generation."""
        raw = await self.registry.get(KEYS.shard(generation, POD, 0)) or ""
        return Shard.model_validate_json(raw).pieces[0].xxh3


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """A trainer that has exported the initial policy and is in a Train phase."""
    monkeypatch.setattr(train, "TRAINER_PROGRAM", PROGRAM)
    settings, registry = settings_of(job_config(write_config(tmp_path / "policy")), tmp_path), FakeRegistry()
    async with mirrored(registry, KEYS.prefix) as mirror, registry.lease(10) as lease:
        around = Surroundings(settings, registry, mirror, lease.id, "first one")
        side = TrainSide(around, GpuToken(tmp_path / "gpu.token"))

        async def announce() -> None:
            await registry.put(KEYS.member(POD, "train"), side.record().model_dump_json(), lease=lease.id)

        scene = Scene(registry, side)
        try:
            await side.start(announce)
            await scene.act(Action.EXPORT, 0)
            await scene.act(Action.TRAIN, 0)
            yield scene
        finally:
            await side.close()


async def test_a_batch_makes_the_next_generation_and_registers_it(scene: Scene) -> None:
    trained = await scene.train(0, (SAMPLE,), (SAMPLE,))

    assert (len(trained.steps), scene.side.held.generation) == (2, 1)
    assert (await scene.num_steps_in(0), await scene.num_steps_in(1)) == (0, 2)


async def test_a_batch_without_a_step_makes_the_next_generation_of_the_same_weights(scene: Scene) -> None:
    await scene.train(0, (SAMPLE,))
    await scene.act(Action.TRAIN, 1)

    trained = await scene.train(1)

    assert (trained.steps, scene.side.held.generation) == ((), 2)
    assert (await scene.num_steps_in(1), await scene.num_steps_in(2)) == (1, 1)


async def test_the_generation_after_a_batch_without_a_step_is_there_for_the_next_word(scene: Scene) -> None:
    await scene.train(0)

    await scene.act(Action.EXPORT, 1)

    assert (scene.side.held.generation, scene.side.held.lineage) == (1, LINEAGE)
    assert await scene.num_steps_in(1) == 0


async def test_a_generation_that_nobody_has_made_is_lost(scene: Scene) -> None:
    with pytest.raises(GenerationLost, match=r"generation 1 is neither in the ranks \(they hold 0\)"):
        await scene.act(Action.EXPORT, 1)


async def test_a_checkpoint_of_what_the_trainer_does_not_hold_is_not_begun(scene: Scene, tmp_path: Path) -> None:
    request = CheckpointRequest(path=str(tmp_path / "new"), generation=1, step=CheckpointStep.BEGIN)

    with pytest.raises(WrongPhase, match="does not train from generation 1 now"):
        await scene.side.checkpoint(request)

    await scene.train(0, (SAMPLE,))
    await scene.side.checkpoint(request)
    assert (tmp_path / ".new.partial").is_dir()


async def test_what_the_ranks_hold_is_told_of_their_own_generation_alone(scene: Scene, tmp_path: Path) -> None:
    loaded = await scene.side.fingerprints(0)
    await scene.train(0, (SAMPLE,))
    trained = await scene.side.fingerprints(1)

    assert (loaded.generation, loaded.folder) == (0, str(tmp_path / "policy"))
    assert (trained.generation, trained.folder) == (1, "")
    with pytest.raises(Conflict, match="this trainer's ranks hold generation 1 now; ask for that one"):
        await scene.side.fingerprints(0)
