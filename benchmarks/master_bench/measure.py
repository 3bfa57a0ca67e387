"""What a master with many live trajectories costs: at a pace, and as fast as it can."""

import asyncio
import gc
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import psutil
from benchmarks.master_bench.scene import ITERATION, NEW_TOKENS, NUM_SERVERS, OLD_TOKENS, PROMPT_TOKENS, fill, opened
from benchmarks.master_bench.servers import Pace
from benchmarks.report.result import PartError, Result

from tandem_master.progress import ProgressBoard
from tandem_master.rollout.phase import RolloutSummary, planned, roll_out
from tandem_master.rollout.pool import MAX_OUTSTANDING_SAMPLES
from tandem_master.training import train

LIVE = 100_000
"""Trajectories that stay unfinished to the end."""
PACE_PER_SECOND = 2_000.0
PACED_SECONDS, QUICK_PACED_SECONDS = 30, 10
FULL_SPEED, QUICK_FULL_SPEED = 40_000, 16_000
"""Trajectories that are finished as fast as the master can."""
PERCENTILE = 0.99
SEATS = NUM_SERVERS * MAX_OUTSTANDING_SAMPLES
PHASE_SECONDS = 300.0
LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Measured:
    """What one phase and the training after it took."""

    num_finished: int
    num_trained: int
    plan_seconds: float
    sample_seconds: float
    """Until the last answer was in the buffer: from the first request, at a pace from where all seats were taken."""
    cpu_seconds: float
    """Of the process, servers included, in that time."""
    fill_seconds: float
    """From the first request to where all seats were taken; 0 without a pace."""
    train_seconds: float
    """Complete groups, batch, request to the trainer and commit."""
    dispatch_seconds: list[float]
    bytes_per_trajectory: float


def measure_live(*, quick: bool) -> Result:
    """Finish trajectories at the pace, then others as fast as it goes, while 100,000 more are live all the time."""
    paced = Pace(PACE_PER_SECOND, int(PACE_PER_SECOND) * (QUICK_PACED_SECONDS if quick else PACED_SECONDS), SEATS)
    full = Pace(None, QUICK_FULL_SPEED if quick else FULL_SPEED, SEATS)
    with tempfile.TemporaryDirectory(prefix="master-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        num_trajectories = LIVE + paced.most + full.most
        fill(Path(name), num_trajectories)
        at_pace = asyncio.run(run_phase(Path(name), paced, num_trajectories, ITERATION))
        at_full_speed = asyncio.run(run_phase(Path(name), full, num_trajectories, ITERATION + 1))
    figures = {**_figures_at_pace(at_pace), **_figures_at_full_speed(at_full_speed)}
    return Result(
        figures, {**_conditions(), "decisions": len(at_pace.dispatch_seconds), "trajectories": num_trajectories}
    )


def _figures_at_pace(done: Measured) -> dict[str, float | int]:
    ordered = sorted(done.dispatch_seconds)
    if not ordered:
        raise PartError("no request was sent to a seat that another one had left")
    return {
        "dispatch_p99_ms": 1e3 * ordered[int(len(ordered) * PERCENTILE)],
        "dispatch_p50_ms": 1e3 * median(ordered),
        "dispatch_max_ms": 1e3 * ordered[-1],
        "paced_per_second": done.num_finished / done.sample_seconds,
        "paced_cpu_ms": 1e3 * done.cpu_seconds / done.num_finished,
        "bytes_per_trajectory": int(done.bytes_per_trajectory),
        "plan_seconds": done.plan_seconds,
        "fill_seconds": done.fill_seconds,
    }


def _figures_at_full_speed(done: Measured) -> dict[str, float | int]:
    return {
        "finished_per_second": done.num_finished / (done.sample_seconds + done.train_seconds),
        "sampled_per_second": done.num_finished / done.sample_seconds,
        "batched_per_second": done.num_trained / done.train_seconds,
    }


def _conditions() -> dict[str, object]:
    return {
        "live": LIVE,
        "servers": NUM_SERVERS,
        "seats": SEATS,
        "prompt_tokens": PROMPT_TOKENS,
        "old_tokens": OLD_TOKENS,
        "new_tokens": NEW_TOKENS,
    }


async def run_phase(folder: Path, pace: Pace, num_trajectories: int, iteration: int) -> Measured:
    """Run one phase until as many have finished as the pace says, cut it, train on what is complete, and commit."""
    async with opened(folder, pace, num_trajectories, iteration) as scene:
        gc.collect()
        memory, began = _memory(), perf_counter()
        async with planned(scene.run, iteration) as ahead:
            plan_seconds, memory = perf_counter() - began, _memory() - memory
            num_planned = sum(len(ask.trajectories) for ask in ahead.asks)
            fill_began, cpu = perf_counter(), process_time()
            rollout = asyncio.create_task(roll_out(scene.run, scene.serving, ahead, iteration))
            pacing = asyncio.create_task(scene.servers.run()) if pace.per_second is not None else None
            try:
                await _all_durable(scene.run.board, rollout, pace.most)
                began = scene.servers.filled_at or fill_began
                sample_seconds = perf_counter() - began
                cpu_seconds = process_time() - (scene.servers.cpu_at_filled or cpu)
            finally:
                await _cancel(rollout, pacing)
        began = perf_counter()
        trained = await train(scene.run, iteration)
        await asyncio.to_thread(scene.run.buffer.commit, iteration, trained.trajectory_ids)
        train_seconds = perf_counter() - began
    return Measured(
        num_finished=pace.most,
        num_trained=len(trained.trajectory_ids),
        plan_seconds=plan_seconds,
        sample_seconds=sample_seconds,
        cpu_seconds=cpu_seconds,
        fill_seconds=max(0.0, scene.servers.filled_at - fill_began),
        train_seconds=train_seconds,
        dispatch_seconds=scene.servers.clock.seconds,
        bytes_per_trajectory=memory / num_planned,
    )


async def _cancel(*tasks: "asyncio.Task[Any] | None") -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _all_durable(board: ProgressBoard, rollout: "asyncio.Task[RolloutSummary]", num_finished: int) -> None:
    """Return once so many trajectories are scored and in the buffer. Errors: what the phase ends of."""
    deadline = perf_counter() + PHASE_SECONDS
    while board.progress.completed_trajectories < num_finished:
        if rollout.done():
            rollout.result()
        if rollout.done() or perf_counter() > deadline:
            raise PartError(f"{board.progress.completed_trajectories} of {num_finished} trajectories were finished")
        await asyncio.sleep(LOOK_SECONDS)


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)
