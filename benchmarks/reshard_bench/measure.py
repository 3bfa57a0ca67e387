"""What one pair of layouts costs: planning it, and carrying the plan out in a model of the network."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
from benchmarks.report.result import Result
from benchmarks.reshard_bench.layouts import Parallel, lay_out, model_bytes
from benchmarks.reshard_bench.network import WINDOW
from benchmarks.reshard_bench.schemes import (
    PORT_BYTES_PER_SECOND,
    broadcast_seconds,
    least_seconds,
    makespan_seconds,
)
from benchmarks.reshard_bench.shapes import K2, QWEN3, V3, Shape

from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.placement import Placement
from tandem_checkpoint.reshard.plan import Plan, plan

SHORT_RUN_BYTES = 64 << 10
"""Runs below this cost a network more in requests than in bytes; the model does not count that."""
WINDOWS = (8, WINDOW, 32)
"""Transfers that a rank has in flight."""
PODS_AT_ONCE = 64
"""Copies are made for so many pods together: those of very many ranks would not fit into memory all at once."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A model, how it is trained, and how it is served."""

    shape: Shape
    train: Parallel
    serve: Parallel
    hybrid: bool = False
    """Whether trainer and server run in the same pods."""

    def placements(self) -> tuple[Placement, Placement]:
        """Return what the trainer has and what the server wants."""
        train = lay_out(self.shape, self.train, "hybrid" if self.hybrid else "train")
        return train, lay_out(self.shape, self.serve, "hybrid" if self.hybrid else "serve")


K2_SERVE = {"tensor": 8, "pipeline": 1, "expert": 32}
PAIRS = {
    "k2": Pair(K2, Parallel(256, tensor=4, pipeline=8, expert=16), Parallel(256, **K2_SERVE)),
    "671b": Pair(V3, Parallel(256, tensor=2, pipeline=16, expert=16), Parallel(256, tensor=4, pipeline=1, expert=64)),
    "235b": Pair(QWEN3, Parallel(256, tensor=4, pipeline=4, expert=32), Parallel(256, tensor=8, pipeline=1, expert=8)),
    "hybrid": Pair(K2, Parallel(256, tensor=4, pipeline=8, expert=16), Parallel(256, **K2_SERVE), hybrid=True),
}


def grown(num_ranks: int) -> Pair:
    """Return Kimi-K2's shape on so many ranks of each side: more replicas of the same splits."""
    train = Parallel(num_ranks, tensor=4, pipeline=8, expert=min(16, num_ranks // 8))
    return Pair(K2, train, Parallel(num_ranks, **K2_SERVE))


def measure_pair(pair: Pair, num_samples: int, suffix: str) -> Result:
    """Return the figures of one pair of layouts."""
    have, want = pair.placements()
    plan(have, want).copies()  # warm-up
    timed = [_timed(have, want) for _ in range(num_samples)]
    single = [_timed(have, want, want.pods[:1]) for _ in range(num_samples)]
    made = plan(have, want)
    copies = made.copies()
    simulated = _simulated(pair, made, copies)
    figures = {
        "plan_seconds": median(timed),
        "pod_plan_seconds": median(single),
        "num_copies": len(copies),
        "short_runs_share": _short_runs_share(copies),
        **simulated.figures,
    }
    if not pair.hybrid:
        figures["network_bytes_over_needed"] = _network_bytes(copies) / _needed_bytes(want)
    samples = {"plan_seconds": timed, "pod_plan_seconds": single, **simulated.samples}
    return Result({f"{name}{suffix}": value for name, value in figures.items()}, samples)


def measure_growth(sizes: Sequence[int], num_samples: int) -> Result:
    """Return how long planning takes for so many ranks on each side."""
    figures, samples = {}, {}
    for size in sizes:
        have, want = grown(size).placements()
        timed = [_timed(have, want) for _ in range(num_samples)]
        figures[f"plan_seconds_{size}"], samples[f"plan_seconds_{size}"] = median(timed), timed
    return Result(figures, samples)


def _timed(have: Placement, want: Placement, pods: Sequence[str] | None = None) -> float:
    """Return the seconds that a plan takes with the copies of some pods, or of all."""
    wanting = tuple(dict.fromkeys(want.pods)) if pods is None else tuple(pods)
    gc.collect()
    began = perf_counter()
    made = plan(have, want)
    for first in range(0, len(wanting), PODS_AT_ONCE):
        made.copies(wanting[first : first + PODS_AT_ONCE])
    return perf_counter() - began


def _simulated(pair: Pair, made: Plan, copies: Copies) -> Result:
    """Return the figures of the model; its samples are makespans over the bound with other numbers in flight."""
    num_owners, num_receivers, least = pair.train.num_ranks, pair.serve.num_ranks, least_seconds(made)
    spans = {window: makespan_seconds(copies, num_owners, num_receivers, least, window) for window in WINDOWS}
    num_bytes, num_pods = model_bytes(pair.shape), num_receivers // pair.serve.pod_ranks
    everyone = broadcast_seconds(num_bytes, num_owners, num_receivers, PORT_BYTES_PER_SECOND)
    every_pod = broadcast_seconds(num_bytes, num_owners, num_pods, PORT_BYTES_PER_SECOND * pair.serve.pod_ranks)
    figures = {
        "makespan_seconds": spans[WINDOW],
        "makespan_over_bound": spans[WINDOW] / least,
        "speedup_vs_broadcast": everyone / spans[WINDOW],
        "speedup_vs_pod_broadcast": every_pod / spans[WINDOW],
    }
    return Result(figures, {"makespan_over_bound_in_flight": {n: span / least for n, span in spans.items()}})


def _network_bytes(copies: Copies) -> int:
    return int(copies.num_bytes[copies.kinds == Kind.NETWORK].sum())


def _needed_bytes(want: Placement) -> int:
    """Return how many bytes pods want, each byte once a pod; worked out from the boxes, not from a plan."""
    numbers = {pod: number for number, pod in enumerate(dict.fromkeys(want.pods))}
    pods = np.array([numbers[pod] for pod in want.pods])
    total = 0
    for group in want.groups:
        boxes = np.unique(np.column_stack([pods[group.ranks], group.starts, group.stops]), axis=0)
        num_axes = len(group.shape)
        volumes = (boxes[:, 1 + num_axes :] - boxes[:, 1 : 1 + num_axes]).prod(axis=1)
        total += int(volumes.sum()) * group.item_bytes * len(group.tensors)
    return total


def _short_runs_share(copies: Copies) -> float:
    """Return which share of the network's bytes goes in short runs."""
    network = copies.take(copies.kinds == Kind.NETWORK)
    short = network.run_bytes < SHORT_RUN_BYTES
    return float(network.num_bytes[short].sum() / network.num_bytes.sum())
