"""What a pod of a job takes to plan its own fetch, where one model spans many pods."""

import gc
from statistics import median
from time import perf_counter

from benchmarks.report.result import Result

from tandem_api.weights import Piece
from tandem_checkpoint.transfer.plan import Offer, Source, plan_routes

NUM_PODS = 32
NUM_PIECES = 72_000
"""About as many as Kimi-K2 has matrices: 61 layers of 384 experts with three each."""
SIZES = (14_680_064, 14_680_064, 29_360_128)
"""Bytes of an expert's matrices, in turn."""


def measure_fetch(num_samples: int) -> Result:
    """Return the figure of a pod that has a share of the pieces, as 31 others do, and lacks the rest."""
    offers = _offers()
    timed = [_timed(offers) for _ in range(num_samples)]
    return Result({"fetch_plan_seconds": median(timed)}, {"fetch_plan_seconds": timed})


def _offers() -> list[Offer]:
    held: list[list[Piece]] = [[] for _ in range(NUM_PODS)]
    offset = 0
    for number in range(NUM_PIECES):
        size = SIZES[number % len(SIZES)]
        held[number % NUM_PODS].append(
            Piece(tensor=f"expert.{number}", start=(0,), stop=(size,), offset_bytes=offset, num_bytes=size, xxh3=number)
        )
        offset += size
    return [
        Offer(Source(f"job-hybrid-{pod}", f"http://10.0.0.{pod}:8701"), tuple(pieces))
        for pod, pieces in enumerate(held)
    ]


def _timed(offers: list[Offer]) -> float:
    gc.collect()
    began = perf_counter()
    plan_routes(offers, offers[0].source.pod)
    return perf_counter() - began
