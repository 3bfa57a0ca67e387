"""Waits for the moment at which an injection shall happen, and tells what it has hit."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tandem_api.history import PhaseRecord, SwitchRecord
from tandem_api.job.status import Direction
from tests.faults.control import Control
from tests.faults.history import DiaryEntry
from tests.faults.injections.scene import NoTarget, Scene
from tests.faults.stages import ALL_STAGES, PAUSE_SECONDS, Stage, label
from tests.faults.values import DesiredValue, Phase, StatusValue, Value

STAGE_SECONDS = 45.0
"""Longest wait for a stage to come round."""
POLL_SECONDS = 0.001
NUM_RECENT = 160
"""Records that usual seconds are taken from: five of them an iteration."""
STATES: Mapping[Phase, tuple[str, str]] = {"Infer": ("rollout", "Serving"), "Train": ("train", "Training")}
"""Role and state that show that a phase runs."""
DIRECTIONS: Mapping[Phase, Direction] = {"Infer": Direction.TRAIN_TO_INFER, "Train": Direction.INFER_TO_TRAIN}


@dataclass(frozen=True, slots=True)
class Shot:
    """The moment before an injection."""

    at: float
    hit: str
    """Label of the stage that runs, or what is between two."""


class Aim:
    """Aims at stages of one scene."""

    def __init__(self, scene: Scene, pod: str) -> None:
        """`pod`: whose stages count."""
        self._scene = scene
        self._pod = pod

    async def wait(self, stage: Stage, delay_share: float) -> None:
        """Return in a stage that has just begun, after a share of its usual seconds. Errors: NoTarget."""
        spans = self._spans(stage)
        usual = median(spans) if spans else 0.0
        if stage.is_phase:
            await self._phase(stage)
        elif not spans and self._pod == self._scene.place.hybrid_pod and self._num_switches(stage) > 1:
            raise NoTarget(f"no switch has a stage {label(stage)}")
        else:
            pause = PAUSE_SECONDS if usual < PAUSE_SECONDS / 3 else 0.0
            await self._stage(stage, pause)
            usual = max(usual, pause)
        await asyncio.sleep(delay_share * usual)

    def shot(self, stage: Stage) -> Shot:
        """Return what runs now."""
        if stage.is_phase:
            return Shot(time.time(), stage.name if self._runs(stage) else f"after {stage.name}")
        mark = self._control(stage).mark
        marked = next((one for one in ALL_STAGES if one.name == mark.stage and one.container == stage.container), stage)
        return Shot(time.time(), label(marked) if mark.inside else f"after {label(marked)}")

    async def _stage(self, stage: Stage, pause_seconds: float) -> None:
        """Wait for the engine's mark at the stage's beginning; have it stay there for a while."""
        control = self._control(stage)
        known = control.mark.number
        control.stretch(stage.name, pause_seconds)
        try:
            await self._until(lambda: _is_new(control, known, stage), f"{label(stage)} did not begin")
        finally:
            control.stretch("", 0.0)

    async def _phase(self, stage: Stage) -> None:
        """Wait until the phase runs in an epoch that is newer than the one of now."""
        epoch = _epoch(self._scene.recorder.registry.values)
        await self._until(
            lambda: self._runs(stage) and _epoch(self._scene.recorder.registry.values) != epoch,
            f"{stage.name} did not begin",
        )

    async def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + STAGE_SECONDS
        while not condition():
            if time.monotonic() > deadline or not self._scene.is_running():
                raise NoTarget(otherwise)
            await asyncio.sleep(POLL_SECONDS)

    def _runs(self, stage: Stage) -> bool:
        role, state = STATES[stage.phase]
        values = self._scene.recorder.registry.values
        pod = self._scene.place.hybrid_pod if role == "train" else self._pod
        status = values.get(f"status/{pod}/{role}")
        return isinstance(status, StatusValue) and status.state == state and status.epoch == _epoch(values)

    def _control(self, stage: Stage) -> Control:
        pod = self._scene.place.master_pod if stage.container == "master" else self._pod
        return self._scene.controls[pod, stage.container]

    def _spans(self, stage: Stage) -> list[float]:
        """Return the seconds that it took in the last switches, or that the phase ran."""
        if stage.is_phase:
            records = [entry.record for entry in self._recent]
            return [one.seconds for one in records if isinstance(one, PhaseRecord) and one.phase == stage.phase]
        return [span.seconds for one in self._switches(stage) for span in one.stages if span.stage == stage.name]

    def _num_switches(self, stage: Stage) -> int:
        return len(self._switches(stage))

    def _switches(self, stage: Stage) -> list[SwitchRecord]:
        records = [entry.record for entry in self._recent if isinstance(entry.record, SwitchRecord)]
        return [one for one in records if not one.first and one.direction is DIRECTIONS[stage.phase]]

    @property
    def _recent(self) -> Sequence[DiaryEntry]:
        return self._scene.recorder.diary.entries[-NUM_RECENT:]


def _is_new(control: Control, known: int, stage: Stage) -> bool:
    mark = control.mark
    return mark.number > known and mark.inside and mark.stage == stage.name


def _epoch(values: Mapping[str, Value]) -> int:
    word = values.get("desired")
    return word.epoch if isinstance(word, DesiredValue) else 0
