"""A fluid model of a network: how long transfers take, and how long they have to take at least.

Assumptions, all stated here:
  - Every rank has one port of its own, which sends and receives at once, each at its full rate. Nothing but ports is
    scarce: the switches between them never are (full bisection), and memory is faster than any port. So copies within a
    pod take no time.
  - A rank asks for its transfers in their order, so many at a time (`window`); the next one starts when one ends.
  - At any moment a port divides its bandwidth evenly among its transfers; what some cannot use because of their other
    end is divided evenly again, `NUM_ROUNDS` times in all, and lost after that.
  - A transfer is bytes at a rate. There is no latency, and no cost of a request or a run: many short runs are not
    punished.
  - Time goes on in steps of at least `step_seconds`; what ends within a step leaves its share unused until its end.
    With steps of 0 it is exact.

Legend: F transfers in flight, P ports.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.placement import Ints

Floats = NDArray[np.float64]
NUM_ROUNDS = 4
WINDOW = 16
"""Transfers that a rank has in flight."""
IDLE = 1e-9
"""Bandwidth, as a part of the whole, and bytes, as a part of a transfer, that are as good as none."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfers:
    """Bytes from port to port, in the order in which each receiver asks for them."""

    senders: Ints
    receivers: Ints
    num_bytes: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Bandwidth of every port in bytes per second."""

    send: Floats
    """[P]"""
    receive: Floats
    """[P]"""


def simulate(transfers: Transfers, network: Network, window: int = WINDOW, step_seconds: float = 0.0) -> float:
    """Return the seconds until all transfers are done."""
    order = np.argsort(transfers.receivers, kind="stable")
    senders, sizes = transfers.senders[order], transfers.num_bytes[order].astype(np.float64)
    num_ports = len(network.receive)
    ends = np.searchsorted(transfers.receivers[order], np.arange(num_ports), side="right")
    following = np.searchsorted(transfers.receivers[order], np.arange(num_ports))
    receivers_F = np.repeat(np.arange(num_ports), window)
    senders_F, left_F, sizes_F = (
        np.zeros(len(receivers_F), np.int64),
        np.zeros(len(receivers_F)),
        np.ones(len(receivers_F)),
    )
    now = 0.0
    while True:
        free = np.flatnonzero(left_F <= IDLE * sizes_F)
        ports = receivers_F[free]
        turns = following[ports] + np.arange(len(free)) - np.searchsorted(ports, ports)
        has = turns < ends[ports]
        slots, rows = free[has], turns[has]
        senders_F[slots], left_F[slots], sizes_F[slots] = senders[rows], sizes[rows], sizes[rows]
        following += np.bincount(ports[has], minlength=num_ports)
        left_F[free[~has]] = 0.0
        active = np.flatnonzero(left_F)
        if not len(active):
            return now
        rates = share(senders_F[active], receivers_F[active], network)
        step = max(float((left_F[active] / rates).min()), step_seconds)
        left_F[active] = np.maximum(left_F[active] - rates * step, 0.0)
        now += step


def share(senders_F: Ints, receivers_F: Ints, network: Network) -> Floats:
    """Return the rate of each transfer in flight, in bytes per second; above zero for each."""
    rates_F = np.zeros(len(senders_F))
    send_P, receive_P = network.send.copy(), network.receive.copy()
    growing = np.arange(len(senders_F))
    for _ in range(NUM_ROUNDS):
        senders, receivers = senders_F[growing], receivers_F[growing]
        num_sent = np.bincount(senders, minlength=len(send_P))
        num_received = np.bincount(receivers, minlength=len(receive_P))
        more = np.minimum(send_P[senders] / num_sent[senders], receive_P[receivers] / num_received[receivers])
        rates_F[growing] += more
        send_P -= np.bincount(senders, more, len(send_P))
        receive_P -= np.bincount(receivers, more, len(receive_P))
        idle = (send_P > IDLE * network.send)[senders] & (receive_P > IDLE * network.receive)[receivers]
        growing = growing[idle]
    return rates_F


def bound_seconds(needs: Mapping[frozenset[int], int], bandwidth_P: Floats) -> float:
    """Return a lower bound of the time in which ports can move some bytes.

    `needs` says how many bytes have to go through some port of a set. The bytes of all sets within a set have to go
    through it: that takes the sum of them over the sum of its bandwidths. The sets tried are those given, and all ports
    together.
    """
    sets = [*needs, frozenset().union(*needs)] if needs else []
    return max((_seconds(ports, needs, bandwidth_P) for ports in sets), default=0.0)


def _seconds(ports: frozenset[int], needs: Mapping[frozenset[int], int], bandwidth_P: Floats) -> float:
    num_bytes = sum(size for within, size in needs.items() if within <= ports)
    return num_bytes / float(bandwidth_P[list(ports)].sum())
