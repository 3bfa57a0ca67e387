"""A wall clock that jumps, in every process of one container."""

from dataclasses import dataclass

from tests.faults.injections.scene import Scene


@dataclass(slots=True)
class MoveClock:
    """Puts the clock of a container ahead or back, and right again after a while."""

    container: str
    offset_seconds: float
    hold_seconds: float

    async def inject(self, scene: Scene) -> None:
        pod = scene.place.master_pod if self.container == "master" else scene.place.hybrid_pod
        scene.controls[pod, self.container].move_clock(self.offset_seconds)

    async def undo(self, scene: Scene) -> None:
        pod = scene.place.master_pod if self.container == "master" else scene.place.hybrid_pod
        scene.controls[pod, self.container].move_clock(0.0)
