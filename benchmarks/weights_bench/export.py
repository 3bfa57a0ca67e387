"""The trainer's export beside a memcpy of the same bytes into the same shared memory, whose pages are there.

Each rank is a process with random parameters in the layout that Megatron would give it; all of them write one segment.
The memcpy copies each rank's bytes from one array into a range of the segment, by one thread, and by as many as the
export has. All ranks begin together, and a sample ends with the last of them. The ways take turns.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest.mock import patch

import numpy as np
from benchmarks.report.result import PartError, Result
from benchmarks.weights_bench.policies import DENSE, EXPERTS

from tandem_api.weights import Piece
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.environment import COPY_PAST_CACHE
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import checksum, checksum_of, covers
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name

Spans = list[tuple[float, float]]
DTYPE = "float32"
GENERATION = 0
LEAST_SAMPLES = 10
WARM_UPS = 2
TIMEOUT_SECONDS = 300.0
SHARED_MEMORY = Path("/dev/shm")
EXPORT, TWO_PASSES, MEMCPY, MEMCPY_BY_THREADS, SUM = (
    "export",
    "export_in_two_passes",
    "memcpy",
    "memcpy_by_threads",
    "checksum",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A policy, and how the ranks of a pod share it."""

    policy: PolicyConfig
    split: TrainerSplit
    num_ranks: int


CASES: Mapping[str, Case] = {
    "": Case(DENSE, TrainerSplit(), 1),
    "_tp2": Case(DENSE, TrainerSplit(tensor=2), 2),
    "_moe": Case(EXPERTS, TrainerSplit(), 1),
    "_moe_tp2": Case(EXPERTS, TrainerSplit(tensor=2, expert=2), 2),
}
"""By the suffix of their figures."""


def measure_export(num_samples: int) -> Result:
    """Return export over memcpy for every case; `export_over_memcpy_worst` is the largest."""
    figures: dict[str, float | int] = {}
    samples: dict[str, object] = {}
    for suffix, case in CASES.items():
        seconds, num_bytes = _seconds(case, max(LEAST_SAMPLES, num_samples))
        figures |= {f"{name}{suffix}": value for name, value in ratios(seconds).items()}
        samples[f"export{suffix}"] = {"seconds": seconds, "bytes": num_bytes}
    worst = max(figures[f"export_over_memcpy{suffix}"] for suffix in CASES)
    return Result({"export_over_memcpy_worst": worst, **figures}, samples)


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the figures of one case from the seconds of each way."""
    memcpy = median(seconds[MEMCPY])
    return {
        "export_over_memcpy": median(seconds[EXPORT]) / memcpy,
        "export_in_two_passes_over_memcpy": median(seconds[TWO_PASSES]) / memcpy,
        "checksum_over_memcpy": median(seconds[SUM]) / memcpy,
        "export_over_memcpy_by_threads": median(seconds[EXPORT]) / median(seconds[MEMCPY_BY_THREADS]),
    }


def _seconds(case: Case, num_samples: int) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of every sample of each way, and the bytes that all ranks write together."""
    layout = segment_layout(case.policy, DTYPE)
    context = multiprocessing.get_context("spawn")
    barrier, rounds = context.Barrier(case.num_ranks), num_samples + WARM_UPS
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        allocate(Path(folder), layout.num_bytes)
        path = Path(folder) / segment_name(GENERATION)
        ends, ranks = [], []
        for local_rank in range(case.num_ranks):
            ours, theirs = context.Pipe()
            rank = context.Process(target=_rank, args=(case, local_rank, path, rounds, barrier, theirs), daemon=True)
            with patch.dict(os.environ, GLIBC_TUNABLES=COPY_PAST_CACHE):  # as in a job's ranks
                rank.start()
            theirs.close()
            ends.append(ours)
            ranks.append(rank)
        try:
            told = [_hear(end) for end in ends]
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
    pieces = [piece for _, written in told for piece in written]
    if not covers(layout, pieces):
        raise PartError("the ranks have not written every byte once")
    spans = [times for times, _ in told]
    seconds = {way: together([times[way] for times in spans])[WARM_UPS:] for way in spans[0]}
    return seconds, sum(piece.num_bytes for piece in pieces)


def together(spans_of_ranks: Sequence[Spans]) -> list[float]:
    """Return the seconds of each sample, from the first rank's beginning to the last one's end."""
    return [
        max(end for _, end in spans) - min(began for began, _ in spans) for spans in zip(*spans_of_ranks, strict=True)
    ]


def _hear(end: Connection) -> tuple[dict[str, Spans], tuple[Piece, ...]]:
    """Return what a rank tells: when each sample of each way began and ended, and the pieces it has written."""
    if not end.poll(TIMEOUT_SECONDS):
        raise PartError("a rank has not answered in time")
    try:
        times, pieces = end.recv()
    except EOFError:
        raise PartError("a rank has ended; its error output says why") from None
    return times, pieces


def _rank(case: Case, local_rank: int, path: Path, rounds: int, barrier: Barrier, told: Connection) -> None:
    """Be one rank: take samples of each way, in turns, and tell when each began and ended, and what was written."""
    import torch

    from tandem_sidecars.megatron import copying, export

    if copying.find_library() is None:
        raise SystemExit("copying.c is not compiled: have a C compiler, and install again")
    torch.set_num_threads(1)  # as in a job's ranks (process/environment.py)
    places = PodRanks(case.split, case.num_ranks).places()
    generator = torch.Generator().manual_seed(local_rank)
    parameters = {
        parameter.name: torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        for parameter in trainer_layout(case.policy, places[local_rank])
    }
    layout = segment_layout(case.policy, DTYPE)
    writer = export.SegmentWriter(layout, case.policy, places, local_rank)
    with patch.object(copying, "find_library", lambda: None):
        plain_writer = export.SegmentWriter(layout, case.policy, places, local_rank)
    pieces = writer.write(path, parameters)
    if plain_writer.write(path, parameters) != pieces:
        raise SystemExit("one pass and two have other checksums")
    segment = map_for_writing(path)
    view = memoryview(segment)
    if any(checksum_of(view, piece) != piece.xxh3 for piece in pieces):
        raise SystemExit("the segment has other bytes than were written")
    num_bytes = sum(piece.num_bytes for piece in pieces)
    # By torch, as parameters are: copies from NumPy's own memory, for which it asks for huge pages, are faster.
    source = torch.randint(0, 255, (num_bytes,), generator=generator, dtype=torch.uint8).numpy()
    whole = np.frombuffer(segment, np.uint8)
    target = whole[-num_bytes:] if local_rank else whole[:num_bytes]
    num_threads = writer._num_threads
    parts = list(zip(np.array_split(target, num_threads), np.array_split(source, num_threads), strict=True))
    threads = ThreadPoolExecutor(num_threads)

    ways: dict[str, Callable[[], object]] = {
        EXPORT: lambda: writer.write(path, parameters),
        TWO_PASSES: lambda: plain_writer.write(path, parameters),
        MEMCPY_BY_THREADS: lambda: list(threads.map(lambda part: np.copyto(*part), parts)),
        MEMCPY: lambda: np.copyto(target, source),
        SUM: lambda: list(threads.map(lambda part: checksum(part[1].data), parts)),
    }
    times: dict[str, Spans] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, go in ways.items():
            barrier.wait()
            began = perf_counter()
            go()
            times[way].append((began, perf_counter()))
    told.send((times, pieces))
