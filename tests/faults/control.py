"""The campaign's hand inside a container: a small file that the planted module maps.

`<folder>/<pod>-<container>`: orders for the container (clock, stage to stretch), and the engine's mark in return.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ORDERS = struct.Struct("<dd32s")
MARK = struct.Struct("<Q?32s")
MARK_AT = 64
SIZE = 128
CONTAINERS = ("trainer", "rollout", "master")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an engine is."""

    number: int
    """Marks so far: grows by one at each begin and each end of a stage."""
    inside: bool
    """False: the stage has ended, and no other one has begun."""
    stage: str


class Control:
    """The control file of one container."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)
        self.offset_seconds = 0.0
        self._stretch = (0.0, "")

    @classmethod
    def of(cls, folder: Path, pod: str, container: str) -> Self:
        """Make the file for one container of one pod."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{pod}-{container}")

    @property
    def mark(self) -> Mark:
        number, inside, stage = MARK.unpack_from(self._memory, MARK_AT)
        return Mark(number, inside, stage.rstrip(b"\0").decode(errors="replace"))

    def move_clock(self, offset_seconds: float) -> None:
        """Have every process of the container see the wall clock this much ahead."""
        self.offset_seconds = offset_seconds
        self._write()

    def stretch(self, stage: str, seconds: float) -> None:
        """Have a stage begin with a pause of `seconds`; an empty name stretches none."""
        self._stretch = (seconds, stage)
        self._write()

    def _write(self) -> None:
        seconds, stage = self._stretch
        ORDERS.pack_into(self._memory, 0, self.offset_seconds, seconds, stage.encode())
