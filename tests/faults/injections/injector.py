"""What every way to hurt a job has in common."""

from typing import Protocol

from tests.faults.injections.scene import Scene


class Injector(Protocol):
    """One fault. An object is used once: what it did to whom is undone by the same object."""

    @property
    def hold_seconds(self) -> float:
        """How long the fault stays before it is undone; 0 where that cannot be, as for a killed process."""
        ...

    async def inject(self, scene: Scene) -> None:
        """Do the damage. Errors: NoTarget."""
        ...

    async def undo(self, scene: Scene) -> None:
        """Take away what is still in the way; harmless where the job has ended meanwhile."""
        ...
