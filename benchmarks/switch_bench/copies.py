"""What one copy of a generation costs on this machine: the yardstick of binding and of updating in place."""

from dataclasses import dataclass
from mmap import mmap
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.switch_bench.policies import Policy

from tandem_checkpoint.segments.store import map_for_reading

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Memcpy:
    """Copies generations out of their segments into memory whose pages are there, by one thread."""

    sources: tuple[Bytes, ...]
    target: Bytes

    @classmethod
    def of(cls, policy: Policy) -> "Memcpy":
        """Map both segments and touch every page once."""
        sources = tuple(_view(map_for_reading(generation.segment)) for generation in policy.generations)
        memcpy = cls(sources, np.empty_like(sources[0]))
        for number in range(len(sources)):
            memcpy.seconds(number)
        return memcpy

    def seconds(self, number: int) -> float:
        """Return how long it takes to copy one of the two generations."""
        began = perf_counter()
        np.copyto(self.target, self.sources[number % len(self.sources)])
        return perf_counter() - began


def _view(mapped: mmap) -> Bytes:
    return np.frombuffer(mapped, dtype=np.uint8)
