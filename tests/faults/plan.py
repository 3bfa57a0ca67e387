"""What is injected, in which order, at which stage: a pure function of the seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tests.faults.injections.catalogue import Kind
from tests.faults.stages import Stage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Planned:
    """One injection, before it happens."""

    index: int
    kind: str
    stage: Stage
    delay_share: float
    """Delay after the stage has begun, as a share of its usual seconds: 0 to 1."""
    seed: int
    """For what the injector itself draws."""


def plan_injections(seed: int, num: int, kinds: Mapping[str, Kind]) -> tuple[Planned, ...]:
    """Return the first `num` injections of a seed. More of them begin with the same ones.

    They go in rounds: each has every kind once, in another order. A kind goes through its stages, in an order of its
    own, before it comes to one again.
    """
    return tuple(planned for planned, _ in zip(_endless(seed, kinds), range(num), strict=False))


def _endless(seed: int, kinds: Mapping[str, Kind]) -> Iterator[Planned]:
    random = Random(seed)
    stages = {name: _shuffled(random, list(kind.stages)) for name, kind in kinds.items()}
    index = 0
    while True:
        for name in _shuffled(random, list(kinds)):
            stage = stages[name].pop(0)
            stages[name].append(stage)
            yield Planned(index, name, stage, random.random(), random.getrandbits(32))
            index += 1


def _shuffled(random: Random, items: list[T]) -> list[T]:
    return random.sample(items, len(items))
