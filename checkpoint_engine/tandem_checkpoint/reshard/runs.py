"""Runs of bytes that follow each other in both memories, made one."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.placement import Ints

Bools = NDArray[np.bool_]


def merge_runs(copies: Copies) -> Copies:
    """Return the same copies, in order, in as few rows as can be.

    Runs side by side become wider ones, rows of which nothing lies between become one run, and what goes on where
    another ends on both sides is added to it.
    """
    copies = _sorted(copies)
    if (copies.num_runs > 1).any():
        copies = _flat(_widened(copies))
    return _chained(copies)


def expand(copies: Copies) -> Copies:
    """Return copies of one run each, merged again."""
    at = np.repeat(np.arange(len(copies)), copies.num_runs)
    turn = np.arange(len(at)) - np.repeat(np.cumsum(copies.num_runs) - copies.num_runs, copies.num_runs)
    every = copies.take(at)
    runs = replace(
        every,
        source_offsets=every.source_offsets + turn * every.source_strides,
        target_offsets=every.target_offsets + turn * every.target_strides,
        num_runs=np.ones_like(at),
        source_strides=np.zeros_like(at),
        target_strides=np.zeros_like(at),
    )
    return merge_runs(runs)


def routes_of(copies: Copies) -> Ints:
    """Return a number for each copy that grows with its target, its kind and its source, in this order."""
    num_sources = int(copies.sources.max(initial=0)) + 1
    return (copies.targets * len(Kind) + copies.kinds) * num_sources + copies.sources


def _sorted(copies: Copies) -> Copies:
    routes = routes_of(copies)
    span = int(copies.target_offsets.max(initial=0)) + 1
    if (int(routes.max(initial=0)) + 1) * span < 1 << 63:  # one key is several times as fast as two
        return copies.take(np.argsort(routes * span + copies.target_offsets))
    return copies.take(np.lexsort((copies.target_offsets, routes)))


def _follows(copies: Copies, source_steps: Ints, target_steps: Ints) -> Bools:
    """Return for each copy but the first whether it starts these steps behind the one before, on the same route."""
    routes = routes_of(copies)
    follows: Bools = routes[1:] == routes[:-1]
    follows &= copies.target_offsets[1:] == (copies.target_offsets + target_steps)[:-1]
    follows &= copies.source_offsets[1:] == (copies.source_offsets + source_steps)[:-1]
    return follows


def _alike(*columns: Ints) -> Bools:
    """Return for each copy but the first whether it equals the one before in these columns."""
    alike: Bools = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return alike


def _widened(copies: Copies) -> Copies:
    """Join copies of as many runs, each of which starts where the other's ends."""
    joins = _follows(copies, copies.run_bytes, copies.run_bytes)
    joins &= _alike(copies.num_runs, copies.source_strides, copies.target_strides) & (copies.num_runs[1:] > 1)
    return _grouped(copies, joins, widths=True)


def _flat(copies: Copies) -> Copies:
    """Write copies whose runs touch on both sides as one run."""
    touch = (copies.run_bytes == copies.source_strides) & (copies.run_bytes == copies.target_strides)
    return replace(
        copies,
        run_bytes=np.where(touch, copies.num_bytes, copies.run_bytes),
        num_runs=np.where(touch, 1, copies.num_runs),
        source_strides=np.where(touch, 0, copies.source_strides),
        target_strides=np.where(touch, 0, copies.target_strides),
    )


def _chained(copies: Copies) -> Copies:
    """Join copies one of which goes on where the other ends."""
    one = copies.num_runs == 1
    source_steps = np.where(one, copies.run_bytes, copies.num_runs * copies.source_strides)
    target_steps = np.where(one, copies.run_bytes, copies.num_runs * copies.target_strides)
    joins = _follows(copies, source_steps, target_steps) & (one[1:] == one[:-1])
    joins &= one[1:] | _alike(copies.run_bytes, copies.source_strides, copies.target_strides)
    single = joins & one[1:]
    return _grouped(_grouped(copies, single, widths=True), joins[~single], widths=False)


def _grouped(copies: Copies, joins: Bools, widths: bool) -> Copies:
    """Join each copy marked in `joins` (all but the first) with the one before; their widths or their counts add up."""
    if not joins.any():
        return copies
    firsts = np.flatnonzero(np.concatenate([[True], ~joins]))
    total = np.add.reduceat(copies.run_bytes if widths else copies.num_runs, firsts)
    first = copies.take(firsts)
    return replace(first, run_bytes=total) if widths else replace(first, num_runs=total)
