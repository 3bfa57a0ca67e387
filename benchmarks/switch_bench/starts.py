"""Starting servers, side by side: plain vLLM's, and ours from kill to first token; and binding beside a memcpy.

A sample is one plain start, one memcpy and one change of generation of ours, in this order; then the next sample. While
a plain server starts, ours is idle, and the other way round there is none.
"""

import asyncio
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.report.result import Result
from benchmarks.switch_bench.copies import Memcpy
from benchmarks.switch_bench.cycles import ONE_WORKER, Cycle, Words, restarting, staying, zygote_of
from benchmarks.switch_bench.plain import OFFLINE, TUNED, UNBOUND, plain_start
from benchmarks.switch_bench.policies import Policy
from tests.tandem_sidecars.serving import Engine


@dataclass(frozen=True, slots=True)
class TinyStarts:
    """Samples with the tiny policy; plain starts in seconds."""

    plain: list[float] = field(default_factory=list)
    """As a user would start it."""
    tuned: list[float] = field(default_factory=list)
    """The same with our servers' environment."""
    restarts: list[Cycle] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the medians, and over ours those of both plain ones."""
        ours = median(cycle.total for cycle in self.restarts)
        return {
            "plain_start_seconds": median(self.plain),
            "plain_start_tuned_seconds": median(self.tuned),
            "restart_seconds": ours,
            "restart_speedup_vs_plain": median(self.plain) / ours,
            "restart_speedup_vs_plain_tuned": median(self.tuned) / ours,
        }


@dataclass(frozen=True, slots=True)
class LargeStarts:
    """Samples with the large policy; plain starts and copies in seconds."""

    plain: list[float] = field(default_factory=list)
    copies_beside_restarts: list[float] = field(default_factory=list)
    restarts: list[Cycle] = field(default_factory=list)
    copies_beside_updates: list[float] = field(default_factory=list)
    updates: list[Cycle] = field(default_factory=list)
    """In place."""

    def figures(self) -> dict[str, float]:
        """Return the medians, and what binding and updating cost in copies that were made beside them."""
        ours = median(cycle.total for cycle in self.restarts)
        bind = median(cycle.load for cycle in self.restarts)
        update = median(cycle.load for cycle in self.updates)
        return {
            "plain_start_seconds_large": median(self.plain),
            "restart_seconds_large": ours,
            "restart_speedup_vs_plain_large": median(self.plain) / ours,
            "memcpy_seconds_large": median([*self.copies_beside_restarts, *self.copies_beside_updates]),
            "bind_seconds_large": bind,
            "bind_over_memcpy": bind / median(self.copies_beside_restarts),
            "inplace_seconds_large": update,
            "inplace_over_memcpy": update / median(self.copies_beside_updates),
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """How many samples there are of what."""

    samples: int
    """Of ours."""
    plain: int
    tuned: int


def measure_tiny(policy: Policy, counts: Counts, folder: Path, workers: Words = ONE_WORKER) -> Result:
    """Return `restart_speedup_vs_plain`, and the same over a plain server with our servers' environment."""
    starts = TinyStarts()
    asyncio.run(_tiny(policy, counts, folder / "plain.log", workers, starts))
    return Result(starts.figures(), {"num_parameters": policy.num_parameters, **asdict(starts)})


def measure_large(policy: Policy, counts: Counts, folder: Path, workers: Words = ONE_WORKER) -> Result:
    """Return `restart_speedup_vs_plain_large`, `bind_over_memcpy` and `inplace_over_memcpy`."""
    starts = LargeStarts()
    asyncio.run(_large(policy, counts, folder / "plain.log", workers, starts))
    sizes = {"large_parameters": policy.num_parameters, "large_bytes": policy.num_bytes}
    return Result({**sizes, **starts.figures()}, asdict(starts))


async def _tiny(policy: Policy, counts: Counts, log: Path, workers: Words, starts: TinyStarts) -> None:
    async with zygote_of(policy) as engine, restarting(engine, policy, workers) as cycling:
        words = engine.command(policy.folder, **workers)
        for number in range(counts.samples):
            if number < counts.plain:
                starts.plain.append(await plain_start(words, UNBOUND if workers else OFFLINE, log))
            if number < counts.tuned:
                starts.tuned.append(await plain_start(words, TUNED, log))
            starts.restarts.append(await cycling.next())


async def _large(policy: Policy, counts: Counts, log: Path, workers: Words, starts: LargeStarts) -> None:
    memcpy = Memcpy.of(policy)
    async with zygote_of(policy) as engine:
        await _restarts(engine, policy, memcpy, counts, log, workers, starts)
        if workers:  # they go on looking for work for a while, which costs a copy beside them its processor
            starts.copies_beside_updates.extend(memcpy.seconds(number) for number in range(counts.samples))
        async with staying(engine, policy, workers) as cycling:
            for number in range(counts.samples):
                if not workers:
                    starts.copies_beside_updates.append(memcpy.seconds(number))
                starts.updates.append(await cycling.next())


async def _restarts(
    engine: Engine, policy: Policy, memcpy: Memcpy, counts: Counts, log: Path, workers: Words, starts: LargeStarts
) -> None:
    """Restart and copy as often as there are samples; start plainly beside it as often as is said of that."""
    words = engine.command(policy.folder, **workers)
    async with restarting(engine, policy, workers) as cycling:
        for number in range(counts.samples):
            if number < counts.plain:
                starts.plain.append(await plain_start(words, UNBOUND if workers else OFFLINE, log))
            if workers:
                await cycling.strategy.release()
            starts.copies_beside_restarts.append(memcpy.seconds(number))
            starts.restarts.append(await cycling.next())
