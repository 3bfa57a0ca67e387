"""An injection happens in the stage that it is aimed at, as far as can be."""

import asyncio
from dataclasses import replace

import pytest

from tests.faults.aim import Aim
from tests.faults.conftest import POD
from tests.faults.control import MARK, MARK_AT, ORDERS
from tests.faults.history import DiaryEntry
from tests.faults.injections.scene import NoTarget, Scene
from tests.faults.stages import SERVING, TO_INFER, Stage
from tests.faults.values import DesiredValue, StatusValue
from tests.faults.written import switched

EXPORT = next(stage for stage in TO_INFER if stage.name == "export")
WAIT_SECONDS = 10.0


def write_mark(scene: Scene, number: int, stage: str, *, inside: bool) -> None:
    """Write as the planted module does."""
    with (scene.place.control / f"{POD}-trainer").open("r+b") as file:
        file.seek(MARK_AT)
        file.write(MARK.pack(number, inside, stage.encode()))


def stretched(scene: Scene) -> tuple[float, str]:
    content = (scene.place.control / f"{POD}-trainer").read_bytes()
    _, seconds, stage = ORDERS.unpack_from(content)
    return seconds, stage.rstrip(b"\0").decode()


async def aimed(scene: Scene, stage: Stage) -> "asyncio.Task[None]":
    """Begin to wait for a stage."""
    task = asyncio.create_task(Aim(scene, POD).wait(stage, 0.0), name="aim")
    await asyncio.sleep(0.05)
    return task


async def test_a_short_stage_is_stretched_until_it_is_hit(scene: Scene) -> None:
    waiting = await aimed(scene, EXPORT)
    asked = stretched(scene)
    write_mark(scene, 1, "export", inside=True)
    async with asyncio.timeout(WAIT_SECONDS):
        await waiting

    assert asked == (0.15, "export")
    assert stretched(scene) == (0.0, "")
    assert Aim(scene, POD).shot(EXPORT).hit == "train→infer export"


async def test_a_mark_of_before_does_not_count(scene: Scene) -> None:
    write_mark(scene, 7, "export", inside=True)
    waiting = await aimed(scene, EXPORT)
    still_waits = not waiting.done()
    waiting.cancel()

    assert still_waits


async def test_what_has_ended_meanwhile_is_told(scene: Scene) -> None:
    write_mark(scene, 2, "export", inside=False)

    assert Aim(scene, POD).shot(EXPORT).hit == "after train→infer export"


async def test_a_phase_is_hit_in_its_next_epoch(scene: Scene) -> None:
    values = scene.recorder.registry.values
    values["desired"] = DesiredValue(epoch=3, phase="Infer", generation=1)
    values[f"status/{POD}/rollout"] = StatusValue(incarnation="x", epoch=3, state="Serving")
    waiting = await aimed(scene, SERVING)
    still_waits = not waiting.done()
    values["desired"] = DesiredValue(epoch=5, phase="Infer", generation=2)
    values[f"status/{POD}/rollout"] = StatusValue(incarnation="x", epoch=5, state="Serving")
    async with asyncio.timeout(WAIT_SECONDS):
        await waiting

    assert still_waits
    assert Aim(scene, POD).shot(SERVING).hit == "serving"


async def test_nothing_is_aimed_at_a_command_that_has_ended(scene: Scene) -> None:
    ended = replace(scene, is_running=lambda: False)

    with pytest.raises(NoTarget, match="export did not begin"):
        await Aim(ended, POD).wait(EXPORT, 0.0)


async def test_a_stage_that_no_switch_has_is_given_up_at_once(scene: Scene) -> None:
    scene.recorder.diary.entries += [DiaryEntry(1.0, switched(1)), DiaryEntry(2.0, switched(3))]

    with pytest.raises(NoTarget, match="no switch has a stage"):
        await Aim(scene, POD).wait(EXPORT, 0.0)
