"""The self-test of a pod's servers: whom it asks, when it is made, and what it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import uvicorn

from tandem_api.engine import PublishedWeights, WeightFingerprints
from tandem_api.job import Phase
from tandem_api.registry import Desired, MemberRecord, MemberState, MemberStatus
from tandem_api.weights import BoxFingerprint
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.http import QuietServer, build_app
from tandem_checkpoint.process.commands import Fingerprint, Fingerprinted, FolderSource
from tandem_checkpoint.process.ranks import CommandRefused, RankGroup
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.segments.holdings import SelfTestFailed
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.selftest import HeldFingerprints, SelfTest
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.strategies.strategy import Strategy
from tandem_checkpoint.transfer.fetch import FetchFailed
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import POD, TOKEN, job_config, settings_of
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, PORT

OTHER_POD, ROLLOUT_POD, FOLDER = "toy-hybrid-1", "toy-rollout-0", "/policies/toy"
CONFIG = job_config(Path("/policy")).model_copy(update={"hybrid_pods": (POD, OTHER_POD)})
KEYS = settings_of(CONFIG, Path("/shared")).keys
SOON = 10.0
FIRST, LAST = LAYOUT.tensors[0].name, LAYOUT.tensors[-1].name


def boxes(**other: int) -> tuple[BoxFingerprint, ...]:
    """Return fingerprints of whole tensors; those with a number of their own by the tensor's last word but one."""
    return tuple(
        BoxFingerprint(
            tensor=info.name,
            start=(0,) * len(info.shape),
            stop=info.shape,
            value=other.get(info.name.split(".")[-2], 7),
        )
        for info in LAYOUT.tensors
    )


@dataclass(slots=True)
class Standing:
    """A trainer's engine that tells what it is made to, and counts how often it was asked."""

    told: WeightFingerprints | None
    num_asked: int = 0

    async def fingerprints(self, generation: int) -> WeightFingerprints:
        self.num_asked += 1
        if self.told is None or generation != self.told.generation:
            raise Conflict("this trainer's ranks hold generation None now; ask for that one")
        return self.told

    async def publish(self, generation: int) -> PublishedWeights:
        raise AssertionError("nobody asks for that")


@dataclass(slots=True)
class Servers:
    """Servers that hold what they are made to."""

    held: Sequence[Fingerprinted]

    async def examine(self) -> Sequence[Fingerprinted]:
        return self.held


@dataclass(slots=True)
class Scene:
    """A job's registry, and engines of its trainers."""

    registry: FakeRegistry
    mirror: Mirror
    stack: AsyncExitStack
    trainers: dict[str, Standing] = field(default_factory=dict)

    async def trainer(self, pod: str, told: WeightFingerprints | None) -> Standing:
        """Start and register the engine of a pod's trainer."""
        standing = self.trainers[pod] = Standing(told)
        address = await self.stack.enter_async_context(serving(standing))
        await self.register(pod, address)
        return standing

    async def register(self, pod: str, address: str) -> None:
        record = MemberRecord(incarnation=pod, role="train", address=address, port=PORT, num_ranks=1)
        key = KEYS.member(pod, "train")
        await self.registry.put(key, record.model_dump_json())
        await self.mirror.wait(lambda mirror: mirror.values.get(key))

    def self_test(self, pod: str = POD) -> SelfTest:
        settings: Settings = replace(settings_of(CONFIG, Path("/shared")), pod=pod)
        return SelfTest(Surroundings(settings, self.registry, self.mirror), LAYOUT)


@asynccontextmanager
async def serving(trainer: Standing) -> AsyncIterator[str]:
    """Serve a trainer's API and yield its address."""
    status = MemberStatus(incarnation="a", epoch=1, state=MemberState.IDLE)
    address = free_address()
    app = build_app(TOKEN, lambda: status, None, publisher=trainer)
    server = QuietServer(uvicorn.Config(app, host=address, port=PORT, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(SOON):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    registry = FakeRegistry()
    async with mirrored(registry, KEYS.prefix) as mirror, AsyncExitStack() as stack:
        yield Scene(registry, mirror, stack)


@dataclass(slots=True)
class Ranks:
    """Two ranks that hold half of the tensors each, and can read a folder or not."""

    reads: bool = True
    asked: list[Fingerprint] = field(default_factory=list)

    async def ask(self, command: Callable[[int], Fingerprint], wanted: type[Fingerprinted]) -> list[Fingerprinted]:
        self.asked.append(command(0))
        folder = command(0).folder
        if folder and not self.reads:
            raise CommandRefused(f"{folder} holds no weights")
        return [wanted(boxes=it, folder_boxes=it if folder else ()) for it in (boxes()[:2], boxes()[2:])]


async def taken(held: HeldFingerprints, ranks: Ranks, generation: int = GENERATION) -> WeightFingerprints:
    return await held.take(cast("RankGroup", ranks), generation)


def word(lineage: str = "first", generation: int = GENERATION) -> Desired:
    return Desired(
        epoch=1, phase=Phase.INFER, generation=generation, iteration=1, deadline=time.time() + SOON, lineage=lineage
    )


def servers(*held: tuple[BoxFingerprint, ...]) -> Strategy:
    return cast("Strategy", Servers([Fingerprinted(boxes=it) for it in held]))


def told(found: tuple[BoxFingerprint, ...], folder: tuple[BoxFingerprint, ...] = ()) -> WeightFingerprints:
    return WeightFingerprints(generation=GENERATION, boxes=found, folder=FOLDER if folder else "", folder_boxes=folder)


async def test_ranks_are_asked_once_for_what_they_hold_and_what_they_have_loaded() -> None:
    held, ranks = HeldFingerprints(LAYOUT), Ranks()
    held.forget(FolderSource(path=FOLDER))

    found = await taken(held, ranks)

    assert (found, await taken(held, ranks)) == (told(boxes(), boxes()), found)
    assert ranks.asked == [Fingerprint(folder=FOLDER)]


async def test_weights_that_were_trained_are_in_no_folder() -> None:
    held, ranks = HeldFingerprints(LAYOUT), Ranks()
    held.forget(FolderSource(path=FOLDER))
    await taken(held, ranks)

    held.forget()

    assert (await taken(held, ranks, GENERATION + 1)).folder == ""
    assert ranks.asked == [Fingerprint(folder=FOLDER), Fingerprint()]


async def test_a_folder_that_is_gone_meanwhile_is_left_out() -> None:
    held, ranks = HeldFingerprints(LAYOUT), Ranks(reads=False)
    held.forget(FolderSource(path=FOLDER))

    assert await taken(held, ranks) == told(boxes())


async def test_equal_tensors_are_counted(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes(), boxes()))

    assert await scene.self_test().run(word(), servers(boxes(), boxes())) == len(LAYOUT.tensors)


async def test_it_is_made_once_for_each_lineage(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes()))
    self_test = scene.self_test()
    await self_test.run(word(), servers(boxes()))

    assert await self_test.run(word(), servers(boxes(norm=1))) is None
    with pytest.raises(SelfTestFailed):
        await self_test.run(word("second"), servers(boxes(norm=1)))


async def test_one_wrong_server_of_two_fails_it_in_one_line(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes(), boxes()))

    with pytest.raises(SelfTestFailed) as failed:
        await scene.self_test().run(word(), servers(boxes(), boxes(norm=1)))

    assert str(failed.value) == (
        f"self-test: server 1 of {POD} differs from the trainer of {POD} in model.norm.weight, where the trainer has "
        f"what {FOLDER} has; nothing was trained. Look for a broken hand-over"
    )


async def test_weights_that_were_loaded_wrongly_fail_it(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes(norm=1), boxes()))

    with pytest.raises(SelfTestFailed, match=rf"and its servers differ from {FOLDER} in model\.norm\.weight; nothing"):
        await scene.self_test().run(word(), servers(boxes(norm=1)))


async def test_a_pod_asks_its_own_trainer_alone(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes()))
    other = await scene.trainer(OTHER_POD, told(boxes(norm=1)))

    await scene.self_test().run(word(), servers(boxes()))

    assert other.num_asked == 0


async def test_pods_that_hold_a_model_together_are_asked_together(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes()[:2]))
    await scene.trainer(OTHER_POD, told(boxes()[1:]))

    assert await scene.self_test().run(word(), servers(boxes())) == len(LAYOUT.tensors)


async def test_a_rollout_only_pod_may_have_its_weights_from_any_trainer(scene: Scene) -> None:
    await scene.trainer(POD, told(boxes(norm=1)))
    await scene.trainer(OTHER_POD, told(boxes()))

    assert await scene.self_test(ROLLOUT_POD).run(word(), servers(boxes())) == len(LAYOUT.tensors)
    with pytest.raises(SelfTestFailed, match=rf"differs from the trainer of {POD} in model\.norm\.weight"):
        await scene.self_test(ROLLOUT_POD).run(word(), servers(boxes(norm=2)))


async def test_without_a_trainer_that_holds_the_generation_the_next_hand_over_is_tested(scene: Scene) -> None:
    trainer = await scene.trainer(POD, None)
    self_test = scene.self_test()

    assert await self_test.run(word(), servers(boxes())) is None

    trainer.told = told(boxes())
    assert await self_test.run(word(), servers(boxes())) == len(LAYOUT.tensors)


async def test_a_trainer_that_does_not_answer_fails_the_try_and_not_the_job(scene: Scene) -> None:
    await scene.register(POD, free_address())

    with pytest.raises(FetchFailed, match="fingerprints got no answer"):
        await scene.self_test().run(word(), servers(boxes()))
