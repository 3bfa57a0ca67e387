"""Loopback addresses that no other process of a test run has: tests listen side by side."""

import os

_MOST = 240
"""Numbers that are given out; those above are left to whoever names an address by hand."""


def own_number() -> int:
    """Return a number from 1 to 240. Workers of one run have different ones, whatever their process ids."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = _MOST // num_workers
    return int(worker) * share + os.getpid() % share + 1
