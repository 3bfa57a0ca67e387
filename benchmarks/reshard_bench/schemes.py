"""Two ways to bring a generation from trainers to servers, as transfers: ours, and every byte to everyone.

The second is that of the checkpoint-engine package (github.com/MoonshotAI/checkpoint-engine, `ps.py`): bucket by
bucket, owners in the order of their ranks, each bucket from its owner to every server's GPU, the next one when all have
it. Its broadcast is taken at its best: a ring without latency in which all ports send and receive at once, so that a
bucket takes as long as its bytes through one port. Copies from host to device, and loading, cost nothing in both ways.
"""

from collections import Counter
from itertools import pairwise

import numpy as np
from benchmarks.reshard_bench.network import WINDOW, Network, Transfers, bound_seconds, simulate

from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.plan import Plan
from tandem_checkpoint.reshard.runs import routes_of

PORT_BYTES_PER_SECOND = 50e9
"""One port of 400 Gb/s a rank."""
BUCKET_BYTES = 8 << 30
"""checkpoint-engine's default."""
MESSAGES = 256
"""A rank's bytes are that many messages or more."""
STEPS = 4000
"""The shortest possible time is that many steps of the model or more."""


def transfers_of(copies: Copies, num_senders: int) -> Transfers:
    """Return what of a plan goes over the network, in its batches' order; receivers' ports follow the senders'."""
    network = copies.take(copies.kinds == Kind.NETWORK)
    routes, firsts = np.unique(routes_of(network), return_index=True)
    sizes = np.add.reduceat(network.num_bytes, firsts) if len(routes) else network.num_bytes
    sources, targets = network.sources[firsts], network.targets[firsts]
    message = max(1, int(np.bincount(targets, sizes).max(initial=1)) // MESSAGES)
    counts = -(-sizes // message)
    flow = np.repeat(np.arange(len(sizes)), counts)
    turns = np.arange(len(flow)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = sizes[flow] * (turns + 1) // counts[flow] - sizes[flow] * turns // counts[flow]
    num_ranks = max(num_senders, int(targets.max(initial=0)) + 1)
    distances = (sources - targets)[flow] % num_ranks
    order = np.lexsort((distances, (turns + 0.5) / counts[flow], targets[flow]))
    return Transfers(sources[flow][order], targets[flow][order] + num_senders, lengths[order])


def makespan_seconds(copies: Copies, num_senders: int, num_receivers: int, bound: float, window: int = WINDOW) -> float:
    """Return how long a plan takes whose lower bound is `bound` seconds."""
    ports = _ports(num_senders + num_receivers)
    return simulate(transfers_of(copies, num_senders), ports, window, bound / STEPS)


def least_seconds(plan: Plan) -> float:
    """Return how long any plan for the same layouts takes at least that brings each pod a byte once.

    Whoever has a cell shares the sending of it; whoever in a pod wants it shares the receiving.
    """
    sent: Counter[frozenset[int]] = Counter()
    received: Counter[frozenset[int]] = Counter()
    for assignment in plan.assignments:
        demand = assignment.demand
        ranks, size = demand.terrain.ranks, demand.num_bytes * demand.terrain.num_tensors
        sent[frozenset(ranks[demand.need.sources].tolist())] += size * len(demand.need.readers)
        for row in demand.need.readers:
            received[frozenset(ranks[row[row >= 0]].tolist())] += size
    return max(_bound_seconds(needs) for needs in (sent, received))


def _bound_seconds(needs: Counter[frozenset[int]]) -> float:
    some = {ranks: size for ranks, size in needs.items() if size}
    num_ports = max((max(ranks) + 1 for ranks in some), default=0)
    return bound_seconds(some, np.full(num_ports, PORT_BYTES_PER_SECOND))


def broadcast_seconds(num_bytes: int, num_owners: int, num_receivers: int, port_bytes_per_second: float) -> float:
    """Return how long every byte takes to every receiver, whose ports have this bandwidth; owners have equal shares."""
    edges = [num_bytes * number // num_owners for number in range(num_owners + 1)]
    buckets = [
        (owner, min(BUCKET_BYTES, last - at))
        for owner, (first, last) in enumerate(pairwise(edges))
        for at in range(first, last, BUCKET_BYTES)
    ]
    ports = _ports(num_owners + num_receivers, port_bytes_per_second)
    ring = np.arange(num_owners, num_owners + num_receivers)
    return sum(
        simulate(Transfers(np.concatenate([[owner], ring[:-1]]), ring, np.full(num_receivers, size)), ports)
        for owner, size in buckets
    )


def _ports(number: int, bytes_per_second: float = PORT_BYTES_PER_SECOND) -> Network:
    return Network(np.full(number, bytes_per_second), np.full(number, bytes_per_second))
